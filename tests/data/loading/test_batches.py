import itertools
import json
from pathlib import Path

import pytest
import torch

from coca.core.errors import DataError
from coca.data.sample import Sample
from tiny_data import MemorySource, image_bytes, make_samples, tiny_processor
from tiny_loader import Faulty, make_loader, named, take


def test_labels_become_targets_and_text_of_their_own_source() -> None:
    labelled = MemorySource([Sample("l", image_bytes(1), labels=("cat", "dog"))])
    captioned = MemorySource([Sample("c", image_bytes(2), ("a red car",))])
    (batch,) = take(
        make_loader(
            labelled,
            captioned,
            configs=[named("l", text="labels"), named("c")],
            batch_size=4,
            settings={"class_names": ("bird", "dog", "cat")},
        ),
        1,
    )
    targets = {"l": [0.0, 1.0, 1.0], "c": [0.0, 0.0, 0.0]}
    assert batch.class_targets is not None
    assert batch.class_targets.tolist() == [targets[key] for key in batch.keys]
    decode = tiny_processor().tokenizer.decode
    texts = {key: decode(row) for key, row in zip(batch.keys, batch.tokens.tolist(), strict=True)}
    assert texts["c"] == "a red car"
    assert texts["l"] in ("a photo of the cat, dog", "a photo of the dog, cat")


def test_a_label_without_a_class_makes_a_bad_sample() -> None:
    samples = [Sample(name, image_bytes(1), ("a",), labels=(name,)) for name in ("cat", "cow")]
    options = {"class_names": ("cat",), "max_bad_fraction": 1.0}
    (batch,) = take(make_loader(MemorySource(samples), batch_size=4, settings=options), 1)
    assert set(batch.keys) == {"cat"}
    assert {bad.reason for bad in batch.bad} == {"unknown_label"}


def damaged(samples: list[Sample], every: int) -> MemorySource:
    """A source with rows that cannot be read, cannot be decoded, or have no text."""
    faults = itertools.cycle(["missing", "truncated", "empty_caption", "not_an_image", "empty"])
    content: list[Sample | DataError] = list(samples)
    for row in range(3, len(samples), every):
        sample = samples[row]
        photo = image_bytes(row, form="JPEG", side=40)
        replacements: dict[str, Sample | DataError] = {
            "missing": DataError("it is gone", reason="missing"),
            "truncated": Sample(sample.key, photo[: len(photo) // 2], sample.captions),
            "empty_caption": Sample(sample.key, sample.image, ("", " ")),
            "not_an_image": Sample(sample.key, b"<html>", sample.captions),
            "empty": Sample(sample.key, b"", sample.captions),
        }
        content[row] = replacements[next(faults)]
    return MemorySource(content)


@pytest.mark.parametrize(("every", "workers"), [(2, 0), (10, 0), (100, 0), (10, 2)])
def test_bad_samples_are_replaced_and_leave_the_order_elsewhere(
    tmp_path: Path, every: int, workers: int
) -> None:
    samples = make_samples(100)
    good = take(make_loader(MemorySource(samples), batch_size=10), 20)
    log, source = tmp_path / "bad_samples.jsonl", damaged(samples, every)
    loader = make_loader(
        source,
        batch_size=10,
        settings={"max_bad_fraction": 0.6, "workers": workers},
        bad_log=log,
    )
    batches = take(loader, 20)
    bad_keys = {samples[row].key for row in range(3, 100, every)}
    for clean, replaced in zip(good, batches, strict=True):
        assert len(replaced.keys) == 10
        for wanted, got in zip(clean.keys, replaced.keys, strict=True):
            assert (got == wanted) == (wanted not in bad_keys)
            assert got not in bad_keys
    listed = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(entry["row"] for entry in listed) == list(range(3, 100, every))
    # Of every second sample, replacements are bad as well.
    assert all(bad.key == source.key(bad.row) for batch in batches for bad in batch.bad)
    assert loader.bad_samples.counts.total() == sum(len(batch.bad) for batch in batches)
    assert {entry["source"] for entry in listed} == {"m0"}


def test_more_bad_samples_than_allowed_stop_the_run_with_the_reasons() -> None:
    with pytest.raises(DataError, match=r"samples are bad, .* 0\.01 .*missing") as caught:
        take(make_loader(damaged(make_samples(100), 20), batch_size=10), 100)
    assert caught.value.reason == "too_many_bad"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_without_a_usable_sample_stops_the_run_at_once(workers: int) -> None:
    broken = MemorySource([DataError("it is gone", reason="missing")] * 5000)
    loader = make_loader(
        MemorySource(make_samples(50)),
        broken,
        settings={"max_bad_fraction": 1.0, "workers": workers},
    )
    with pytest.raises(DataError, match=r"m1 gave no usable sample in 32 attempts.*it is gone"):
        take(loader, 1)
    assert loader.state == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_the_program_itself_is_not_hidden(workers: int) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        take(make_loader(Faulty(make_samples(3)), settings={"workers": workers}), 1)


def asked(key: str, question: str, *answers: str) -> Sample:
    return Sample(key, image_bytes(1), text=question, answers=answers)


def test_a_question_precedes_its_answer_and_is_counted() -> None:
    asking = MemorySource([asked("q", "the small cat sleeps", "a red car")])
    telling = MemorySource([Sample("c", image_bytes(2), ("two dogs play",))])
    configs = [named("q", text="question"), named("c")]
    (batch,) = take(make_loader(asking, telling, configs=configs, batch_size=4), 1)
    tokenizer = tiny_processor().tokenizer
    assert batch.prompt_lengths is not None
    for key, row, length in zip(batch.keys, batch.tokens, batch.prompt_lengths, strict=True):
        begun = tokenizer.encode_prompt("the small cat sleeps" if key == "q" else "")
        assert row[:length].tolist() == begun
        rest = tokenizer.decode(row[length:].tolist())
        assert rest == ("a red car" if key == "q" else "two dogs play")


def test_keywords_that_are_not_captioned_are_marked() -> None:
    rows = [
        Sample(f"{n}", image_bytes(n), ("a dog",), metadata={"german": ["ein Hund"]})
        for n in range(4)
    ]
    both = {"keyword_field": "german", "keyword_fraction": 0.5}
    for captioned in (True, False):
        configs = [named("x", **both, keyword_captioning=captioned)]
        loader = make_loader(MemorySource(rows), configs=configs, batch_size=16)
        (batch,) = take(loader, 1)
        if captioned:
            assert batch.is_captioned is None
            continue
        tokenizer = tiny_processor().tokenizer
        texts = [tokenizer.decode(row[1:].tolist()) for row in batch.tokens]
        assert {*texts} == {"a dog", "ein hund"}
        assert batch.is_captioned is not None
        assert batch.is_captioned.tolist() == [text == "a dog" for text in texts]


def test_answers_count_by_their_accuracy_and_only_if_listed() -> None:
    people = ("two cats", "2 cats", "The dog.", *["a cow"] * 7)
    source = MemorySource([asked("q", "what is it", *people)])
    settings = {"class_names": ("dog", "2 cats", "pig"), "class_from": "answers"}
    loader = make_loader(
        source, configs=[named("q", text="question")], batch_size=1, settings=settings
    )
    (batch,) = take(loader, 1)
    assert batch.class_targets is not None
    torch.testing.assert_close(batch.class_targets, torch.tensor([[0.3, 0.6, 0.0]]))
    assert batch.bad == ()


def test_another_number_of_images_makes_a_bad_sample() -> None:
    pair = Sample("pair", image_bytes(1), ("a",), others=(image_bytes(2),))
    samples = MemorySource([pair, Sample("one", image_bytes(1), ("a",))])
    settings = {"images_per_sample": 2, "max_bad_fraction": 1.0}
    (batch,) = take(make_loader(samples, batch_size=4, settings=settings), 1)
    assert set(batch.keys) == {"pair"}
    assert {bad.reason for bad in batch.bad} == {"image_count"}

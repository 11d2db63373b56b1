import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from coca.core.errors import DataError, ModelError
from coca.processing.caption_words import CaptionWords, WordChoice, words_of
from coca.processing.clip_bpe import ClipTokenizer
from coca.processing.image import ImageConfig, ImageTransform, decode
from coca.processing.processor import Processor
from coca.processing.tokenizer import TextTokenizer, Tokenizer

TOKENIZER = Tokenizer.train(["a red car", "a blue house by the river"], vocab_size=290)


@pytest.fixture
def processor() -> Processor:
    config = ImageConfig(image_size=16, resize="pad", mean=(0.1, 0.2, 0.3), std=(0.9, 0.8, 0.7))
    return Processor(ImageTransform(config), TOKENIZER, 12)


def test_a_list_of_images_of_any_kind_becomes_one_batch(
    processor: Processor, scene: Image.Image, encode: Callable[..., bytes]
) -> None:
    sources: list[Any] = [scene, np.asarray(scene), encode(scene, "PNG")]
    batch = processor.images(sources)
    assert batch.shape == (3, 3, 16, 16)
    for row in batch:
        assert torch.equal(row, processor.image(decode(scene)))
    assert processor.images([]).shape == (0, 3, 16, 16)


def test_captions_are_cut_to_the_context(processor: Processor) -> None:
    ids = processor.texts(["a red car", "a blue house " * 20])
    assert ids.shape == (2, 12)
    assert torch.equal(
        ids, TOKENIZER.encode(["a red car", "a blue house " * 20], context_length=12)
    )


def test_the_words_of_captions_are_saved_and_removed_with_the_processor(
    processor: Processor, tmp_path: Path
) -> None:
    words = CaptionWords.of(["red", "car", "ugly"])
    listed = Processor(processor.image, TOKENIZER, 12, caption_words=words)
    listed.save(tmp_path)
    assert Processor.load(tmp_path).caption_words == words
    smaller = listed.image_config.replace(image_size=8)
    assert listed.with_image(smaller).caption_words == words
    processor.save(tmp_path)
    assert Processor.load(tmp_path).caption_words is None


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_generated_ids_spell_listed_words_for_each_tokenizer(
    processor: Processor, kind: Literal["bpe", "unigram"]
) -> None:
    tokenizer = Tokenizer.train(
        ["a red car, blue", "a t-shirt by the river. \u00e9", "\u00fcber"],
        vocab_size=290,
        kind=kind,
    )
    words = CaptionWords.of(["red", "t-shirt", "\u00fcber", "car", "dead"])
    made = Processor(processor.image, tokenizer, 12, caption_words=words)
    assert made.word_constraint("any") is None
    chance = np.random.default_rng(0)
    seen = set[str]()
    choices: dict[WordChoice, frozenset[str]] = {
        "polite": words.words - {"dead"},
        "listed": words.words,
    }
    for choice, allowed in choices.items():
        constraint = made.word_constraint(choice)
        assert constraint is not None
        for _ in range(200):
            ids: list[int] = []
            for left in range(10, 0, -1):
                states = constraint.states(np.array([ids], np.int64).reshape(1, -1))
                mask = constraint.forbidden(states, np.array([left]), width=tokenizer.vocab_size)
                ids.append(int(chance.choice(np.flatnonzero(~mask[0]))))
                if ids[-1] == tokenizer.eos_id:
                    break
            found = set(words_of(tokenizer.decode(ids)))
            assert found <= allowed
            seen |= found
    assert seen == words.words


@pytest.mark.parametrize(
    "tokenizer", [TOKENIZER, ClipTokenizer.from_merges([("c", "a"), ("ca", "t</w>")])]
)
def test_saving_and_loading_keeps_everything(
    processor: Processor, tokenizer: TextTokenizer, scene: Image.Image, tmp_path: Path
) -> None:
    processor = Processor(processor.image, tokenizer, 12)
    processor.save(tmp_path / "model")
    assert sorted(it.name for it in (tmp_path / "model").iterdir()) == [
        "processor.json",
        "tokenizer.json",
    ]
    again = Processor.load(tmp_path / "model")
    assert again.image_config == processor.image_config
    assert again.context_length == 12
    assert torch.equal(again.images([scene]), processor.images([scene]))
    assert type(again.tokenizer) is type(tokenizer)
    assert torch.equal(again.texts(["A red cat!"]), processor.texts(["A red cat!"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "format version 2; this release reads 1"),
        ({"version": None}, "format version None"),
        ({"sharpen": True}, "sharpen"),
        ({"image": {"image_size": 16, "meen": [0, 0, 0]}}, "did you mean 'mean'"),
        ({"image": 5}, "image"),
        ({"context_length": 3}, "at least 4"),
        ({"context_length": "12"}, "context_length"),
    ],
)
def test_a_field_that_does_not_fit_is_reported(
    processor: Processor, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    processor.save(tmp_path)
    path = tmp_path / "processor.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message) as caught:
        Processor.load(tmp_path)
    assert "processor.json" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", None])
@pytest.mark.parametrize("name", ["processor.json", "tokenizer.json"])
def test_a_damaged_or_missing_file_is_an_error_that_names_it(
    processor: Processor, tmp_path: Path, name: str, content: bytes | None
) -> None:
    processor.save(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        Processor.load(tmp_path)


# Batches read ahead


def test_batches_read_ahead_are_those_read_at_once(
    processor: Processor, scene: Image.Image
) -> None:
    images = [scene, scene.rotate(90), scene.rotate(180)]
    batches = list(processor.image_batches([images[:2], images[2:], []]))
    assert [len(batch) for batch in batches] == [2, 1, 0]
    assert torch.equal(torch.cat(batches), processor.images(images))
    assert list(processor.image_batches([])) == []


def test_the_next_batch_is_read_while_the_caller_works(
    processor: Processor, scene: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_is_read = threading.Event()
    read = processor.images

    def calls(sources: Sequence[Any]) -> Any:
        if len(sources) == 2:
            second_is_read.set()
        return read(sources)

    monkeypatch.setattr(processor, "images", calls)
    batches = processor.image_batches([[scene], [scene, scene]])
    next(batches)
    assert second_is_read.wait(timeout=240)
    assert len(next(batches)) == 2


def test_a_bad_image_is_reported_when_its_batch_is_asked_for(
    processor: Processor, scene: Image.Image, tmp_path: Path
) -> None:
    batches = processor.image_batches([[scene], [tmp_path / "none.png"], [scene]])
    assert len(next(batches)) == 1
    with pytest.raises(DataError, match="none"):
        next(batches)


def test_many_files_are_read_in_their_order_and_the_first_bad_one_is_reported(
    processor: Processor, scene: Image.Image, tmp_path: Path
) -> None:
    files = []
    for turn in range(40):
        files.append(tmp_path / f"{turn}.png")
        scene.rotate(9 * turn).save(files[-1])
    one_by_one = torch.cat([processor.images([file]) for file in files])
    assert torch.equal(processor.images(files), one_by_one)
    files[20].write_bytes(b"no image")
    files[30].unlink()
    with pytest.raises(DataError, match=r"20\.png"):
        processor.images(files)

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from coca.core.errors import ConfigError, DataError
from coca.data.loading.loader import Loader, LoaderConfig
from coca.data.sample import Sample
from coca.data.sources.source import SourceConfig
from coca.predict.prompts import CLIP_PROMPTS
from coca.processing.processor import Processor
from coca.processing.tokenizer import Tokenizer
from coca.workflows.training import pretrain_data
from coca.workflows.training.pretrain_data import (
    DataConfig,
    ResolutionConfig,
    TokenizerConfig,
    make_loader,
    make_processor,
    obtain_tokenizer,
    train_tokenizer,
)
from tiny_data import CAPTIONS, MemorySource, make_samples, tiny_processor
from tiny_datasets import make_tar
from tiny_ranks import HANGING_S, on_ranks, start_ranks
from tiny_workflows import tars_scanned_by_this_rank

SOURCE = SourceConfig(kind="memory", path="m")


def labelled(count: int) -> list[Sample]:
    return [Sample(f"s{number}", b"", labels=("cat",)) for number in range(count)]


def learned(
    *sources: tuple[SourceConfig, Sequence[Sample | DataError]], vocab_size: int = 300
) -> Tokenizer:
    """A tokenizer of these samples of each source."""
    opened = [(config, MemorySource(samples)) for config, samples in sources]
    return train_tokenizer(opened, vocab_size=vocab_size, config=TokenizerConfig())


def test_the_tokenizer_learns_the_prompts_with_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def train(texts: Iterable[str], **settings: object) -> Tokenizer:
        read.extend(texts)
        return Tokenizer.train(CAPTIONS, vocab_size=300)

    monkeypatch.setattr(pretrain_data, "Tokenizer", SimpleNamespace(train=train))
    prompts = SourceConfig(kind="memory", path="m", text="labels", templates=("clip",))
    learned((prompts, labelled(160)), (SOURCE, make_samples(1)))
    assert set(read[:160]) == {prompt.replace("{}", "cat") for prompt in CLIP_PROMPTS}
    assert read[160:] == ["a red car"]
    # Of sources that are too long every n-th sample is read, and still each template.
    read.clear()
    monkeypatch.setattr(pretrain_data, "TOKENIZER_SAMPLES", 80)
    learned((prompts, labelled(160)))
    assert len(read) == 80
    assert set(read) == {prompt.replace("{}", "cat") for prompt in CLIP_PROMPTS}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("captions", "none of 4 samples of m has a caption, and text is captions"),
        ("question", "none of 4 samples of m has a question"),
    ],
)
def test_a_source_without_the_text_it_is_set_to_is_refused(text: Any, message: str) -> None:
    config = SourceConfig(kind="memory", path="m", text=text)
    with pytest.raises(DataError, match=message):
        learned((SOURCE, make_samples(3)), (config, labelled(4)))


def test_a_sample_that_cannot_be_read_is_passed_over() -> None:
    tokenizer = learned((SOURCE, [*make_samples(3), DataError("it is gone", reason="missing")]))
    assert tokenizer.decode(tokenizer.encode_prompt("a red car")) == "a red car"


def test_a_tokenizer_is_learned_until_the_run_has_a_checkpoint_and_then_read(
    tmp_path: Path,
) -> None:
    def obtain(sources: list[tuple[SourceConfig, MemorySource]], **settings: Any) -> str:
        tokenizer = obtain_tokenizer(
            tmp_path / "run", sources, TokenizerConfig(**settings), vocab_size=300
        )
        tokenizer.save(tmp_path / "copy.json")
        return json.dumps(json.loads((tmp_path / "copy.json").read_text()))

    first = obtain([(SOURCE, MemorySource(make_samples(3)))])
    with pytest.raises(DataError, match="no text to learn"):
        obtain([])
    (tmp_path / "run" / "checkpoints" / "step_00000001").mkdir(parents=True)
    assert obtain([]) == first
    (tmp_path / "run" / "tokenizer.json").rename(tmp_path / "kept.json")
    assert obtain([], path=tmp_path / "kept.json") == first
    with pytest.raises(DataError, match="no text to learn"):
        obtain([])


def loader_of(
    tmp_path: Path,
    samples: list[Any],
    config: DataConfig,
    processor: Processor | None = None,
    *,
    steps: int = 5,
    device: str = "cpu",
) -> Loader:
    return make_loader(
        config,
        [(SOURCE, MemorySource(samples))],
        processor or tiny_processor(),
        steps=steps,
        seed=0,
        bad_log=tmp_path / "bad.jsonl",
        device=device,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"others": (b"2",)}, "samples of m have 2 images each, but this run reads 1 of each"),
        ({"captions": ()}, "none of 3 samples of m has a caption, and text is captions"),
    ],
)
def test_samples_that_are_all_unusable_are_refused_before_the_first_step(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    samples = [replace(sample, **change) for sample in make_samples(5)]

    strict = DataConfig(sources=(SOURCE,), loader=LoaderConfig(batch_size=2))
    lenient = strict.replace(loader=LoaderConfig(batch_size=2, max_bad_fraction=1.0))
    with pytest.raises(DataError, match=message):
        loader_of(tmp_path, samples, strict)
    # Some usable ones may be enough, and who allows bad ones is not asked.
    loader_of(tmp_path, [*samples, *make_samples(1)], strict)
    loader_of(tmp_path, samples, lenient)


def test_stages_end_at_whole_batches_of_the_run(tmp_path: Path) -> None:
    config = DataConfig(
        sources=(SOURCE,),
        loader=LoaderConfig(batch_size=4),
        resolution=(
            ResolutionConfig(until=0.3, image_size=4),
            ResolutionConfig(until=0.6, image_size=12),
        ),
    )
    processor = make_processor(config, tiny_processor().tokenizer, image_size=8, context_length=24)
    batches = iter(loader_of(tmp_path, make_samples(10), config, processor))
    # 30 % of 5 steps is a step and a half, 60 % are three.
    assert [next(batches).images.shape[-1] for _ in range(5)] == [4, 4, 12, 8, 8]


def test_a_stage_without_augmentation_shows_the_plain_image(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (20, 10), (255, 0, 0)).save(stream, "PNG")
    sample = Sample("s", stream.getvalue(), ("a red car",))
    config = DataConfig(
        sources=(SOURCE,),
        loader=LoaderConfig(batch_size=2),
        resolution=(ResolutionConfig(until=0.5, image_size=4),),
        resize="pad",
    )
    tokenizer = tiny_processor().tokenizer
    small = make_processor(config, tokenizer, image_size=4, context_length=24)
    processor = make_processor(config, tokenizer, image_size=8, context_length=24)
    loader = loader_of(tmp_path, [sample], config, processor, steps=2)
    assert next(iter(loader)).to("cpu").images.equal(small.images([sample.image] * 2))


def test_only_a_run_on_a_gpu_pins_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = DataConfig(sources=(SOURCE,), loader=LoaderConfig(batch_size=4))
    for device, pinned in (("cpu", False), ("auto", True), ("cuda:0", True)):
        loader = loader_of(tmp_path, make_samples(10), config, device=device)
        assert loader.pin_memory == pinned


@pytest.mark.distributed
def test_the_first_rank_indexes_the_tars_of_a_run_and_the_others_use_it(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(3):
        make_tar(folder / f"{number}.tar", {"a.jpg": b"x", "a.txt": b"a caption"})
    scanned = on_ranks(2, tmp_path, partial(tars_scanned_by_this_rank, folder))
    assert scanned == [3, 0]


@pytest.mark.distributed
def test_tars_that_cannot_be_opened_are_reported_by_every_rank(tmp_path: Path) -> None:
    ranks = start_ranks(2, tmp_path, partial(tars_scanned_by_this_rank, tmp_path / "none"))
    for process in ranks:
        process.join(HANGING_S)
    assert [process.exitcode for process in ranks] == [1, 1]


def test_common_words_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("the\ncar\n\n car\ndog\n", encoding="utf-8")
    config = TokenizerConfig(words=path, word_count=3)
    assert config.common_words() == ("the", "car", "dog")
    with pytest.raises(ConfigError, match=r"words.txt has 3 words; 4 are asked for"):
        TokenizerConfig(words=path, word_count=4).common_words()
    with pytest.raises(ConfigError, match=r"none.txt cannot be read"):
        TokenizerConfig(words=tmp_path / "none.txt", word_count=1).common_words()
    with pytest.raises(ConfigError, match="words need a tokenizer of kind bpe"):
        TokenizerConfig(words=path, kind="unigram")

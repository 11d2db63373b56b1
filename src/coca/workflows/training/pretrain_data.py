"""The data of a pretraining run: sources, tokenizer, processor, and the loader over all of them."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.loading.batches import Stage
from coca.data.loading.loader import Loader, LoaderConfig
from coca.data.loading.text import templates_of, texts_of
from coca.data.sources.base import Source, SourceConfig, words_of
from coca.data.sources.factory import open_source
from coca.processing.augment import Augment, AugmentConfig
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor
from coca.processing.tokenizer import TextTokenizer, Tokenizer
from coca.train.checkpoint import has_checkpoint
from coca.train.device import training_device
from coca.train.distributed_context import DistributedContext

_TEXT_NAMES = {"captions": "a caption", "labels": "a label", "question": "a question"}

_MANY_BAD = 0.5
"""Who allows that many bad samples is not asked whether a few of them are usable."""

TOKENIZER_SAMPLES = 1_000_000
"""Samples whose words the tokenizer learns from at most; more would not change it."""

Sources: TypeAlias = Sequence[tuple[SourceConfig, Source]]
"""Opened sources, each with its settings."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Where the tokenizer comes from; not read if the run begins with another model's weights."""

    path: Path | None = None
    """A `tokenizer.json` to use; null learns one from the captions of the run's sources."""
    kind: Literal["bpe", "unigram"] = "bpe"
    """What is learned; `unigram` is what SentencePiece learned for the paper."""
    lowercase: bool = True
    """Read capital letters as small ones."""


@dataclass(frozen=True, kw_only=True)
class ResolutionConfig:
    """A part of the run in which images have another size than at its end."""

    until: float
    """Where it ends, as a share of the run: above 0 and below 1."""
    image_size: int
    """Side of the images, pixels; a multiple of the model's patches."""

    def __post_init__(self) -> None:
        if not 0 < self.until < 1:
            raise ConfigError(f"until is {self.until}; it must be above 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the run learns from."""

    sources: tuple[SourceConfig, ...]
    """A weighted mixture; two of equal weight give half of each batch from either."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Batches and workers."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Chance in images; none by default."""
    resolution: tuple[ResolutionConfig, ...] = ()
    """Sizes of images before the model's own, which always comes last, by rising `until`. Small
    images cost less: `[{until: 0.5, image_size: 112}]` halves a side in the first half."""
    resize: Literal["squash", "crop", "pad"] = "squash"
    """How an image becomes square."""
    trim: bool = False
    """Cut away empty borders first, as stand around icons and products."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources is empty; a run needs at least one")
        for one, other in pairwise(self.resolution):
            if one.until >= other.until:
                raise ConfigError(
                    f"resolution goes on until {other.until} after {one.until}; each `until` must "
                    "be above the one before"
                )


def open_sources(configs: Sequence[SourceConfig]) -> Sources:
    """The run's sources.

    Raises:
        ConfigError: One is of an unknown kind.
        DataError: Nothing usable stands at a path.
    """
    return [(config, open_source(config)) for config in configs]


def train_tokenizer(
    sources: Sources,
    *,
    vocab_size: int,
    config: TokenizerConfig,
    progress: ProgressMaker = silent,
) -> Tokenizer:
    """Learns a tokenizer from all texts of the sources: captions, labels, questions, answers.

    Templates are learned with the texts that they hold.

    Raises:
        DataError: The sources hold no text, or one holds none of the kind that it is set to.
    """
    total = min(sum(len(source) for _, source in sources), TOKENIZER_SAMPLES)
    with progress("reading captions", total) as bar:

        def texts() -> Iterator[str]:
            for text in _texts(sources):
                bar.advance()
                yield text

        return Tokenizer.train(
            texts(), vocab_size=vocab_size, kind=config.kind, lowercase=config.lowercase
        )


def _texts(sources: Sources) -> Iterator[str]:
    """The texts of each sample as one string; every n-th sample of sources that are very long.

    Raises:
        DataError: No sample of a source has the kind of text that its settings ask for.
    """
    total = sum(len(source) for _, source in sources)
    step = -(-total // TOKENIZER_SAMPLES)
    for config, source in sources:
        templates = templates_of(config) or ("{}",)
        read = found = 0
        for row in range(0, len(source), step):
            try:
                sample = words_of(source, row)
            except DataError:
                continue  # the loader counts and names it when the run meets it
            texts, answers = texts_of(sample, config)
            template = templates[row // step % len(templates)]
            read, found = read + 1, found + bool(texts)
            yield "\n".join([*(template.replace("{}", text) for text in texts), *answers])
        if read and not found:
            raise _without_text(config, read)


def _without_text(config: SourceConfig, count: int) -> DataError:
    return DataError(
        f"none of {count:,} samples of {config.title} has {_TEXT_NAMES[config.text]}, and text is "
        f"{config.text}; choose among {', '.join(_TEXT_NAMES)}",
        reason="empty_caption",
    )


def obtain_tokenizer(
    run: Path,
    sources: Sources,
    config: TokenizerConfig,
    *,
    vocab_size: int,
    progress: ProgressMaker = silent,
) -> Tokenizer:
    """The run's tokenizer; one that is learned is kept in its folder, and read from there again.

    Until the run has a checkpoint it is learned anew, since data or size may be others by now. On
    several ranks the main one learns it, and all must call this.

    Raises:
        DataError: The sources hold no words to learn from.
        ModelError: The file is missing or damaged.
    """
    path = config.path or run / "tokenizer.json"

    def learn() -> None:
        if not (path.exists() and has_checkpoint(run)):
            tokenizer = train_tokenizer(
                sources, vocab_size=vocab_size, config=config, progress=progress
            )
            run.mkdir(parents=True, exist_ok=True)
            tokenizer.save(path)

    if config.path is None:
        DistributedContext.current().broadcast_from_main(learn)
    return Tokenizer.load(path)


def make_processor(
    config: DataConfig, tokenizer: TextTokenizer, *, image_size: int, context_length: int
) -> Processor:
    """What turns images and words into the model's input, now and in the finished model."""
    image = ImageConfig(image_size=image_size, resize=config.resize, trim=config.trim)
    return Processor(ImageTransform(image), tokenizer, context_length)


def _require_usable(config: SourceConfig, source: Source, pictures: int) -> None:
    """Refuse a source of which each sample would be bad, as far as a few of them show."""
    samples = []
    for row in sorted({0, len(source) // 2, len(source) - 1}):
        with suppress(DataError):
            samples.append(source.read(row))
    counts = {len(sample.images) for sample in samples}
    if counts and pictures not in counts:
        raise DataError(
            f"the samples of {config.title} have {min(counts)} images each, but this run reads "
            f"{pictures} of each; write a row for each image, or fine-tune a head with images: "
            f"{min(counts)}",
            reason="picture_count",
        )
    if samples and not any(texts_of(sample, config)[0] for sample in samples):
        raise _without_text(config, len(samples))


def make_loader(
    config: DataConfig,
    sources: Sources,
    processor: Processor,
    *,
    steps: int,
    seed: int,
    bad_log: Path,
    device: str = "cpu",
) -> Loader:
    """This rank's part of the batches of a run of `steps` steps, for a device named as a run's.

    Raises:
        ConfigError: The ranks cannot share a batch.
        DataError: The samples of a source have another number of images than the run reads, or no
            text.
    """
    if config.loader.max_bad_fraction < _MANY_BAD:
        for source_config, source in sources:
            _require_usable(source_config, source, config.loader.pictures)
    world = DistributedContext.current()
    augment, native = config.augment, processor.image_config
    stages = [
        Stage(
            round(part.until * steps) * config.loader.batch_size,
            Augment(augment, replace(native, image_size=part.image_size)),
        )
        for part in config.resolution
    ]
    return Loader(
        sources,
        config.loader,
        processor,
        seed=seed,
        augment=Augment(augment, native) if augment != AugmentConfig() else None,
        stages=stages,
        rank=world.rank,
        world_size=world.size,
        bad_log=bad_log,
        pin_memory=training_device(device).type == "cuda",
    )

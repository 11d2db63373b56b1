"""Data of a pretraining run: sources, tokenizer, processor and data loader."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, PositiveInt, model_validator

from coca.core.config.frozen_config import Config
from coca.core.errors import CocaError, ConfigError, DataError
from coca.core.progress import progress_bar
from coca.data.loading.batches import AugmentStage
from coca.data.loading.feature_file import FeatureFile
from coca.data.loading.loader import Loader, LoaderConfig
from coca.data.loading.text import keywords_of, templates_of, texts_of
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source, SourceConfig
from coca.model.checkpoint import has_checkpoint
from coca.model.encoders.encoder import Normalization
from coca.processing.augment import Augment, AugmentConfig
from coca.processing.caption_words import CaptionWords
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor
from coca.processing.tokenizer import TOKENIZERS, TextTokenizer, Tokenizer
from coca.train.distributed.context import DistributedContext
from coca.train.optim.schedule import ScheduleConfig
from coca.train.trainer import training_device

_TEXT_NAMES = {"captions": "a caption", "labels": "a label", "question": "a question"}

_MANY_BAD = 0.5
"""From this `max_bad_fraction` on, sources are not checked for usable samples before the run."""

TOKENIZER_SAMPLES = 1_000_000
"""Maximum number of samples that the tokenizer is trained on; more do not change it."""

Sources: TypeAlias = Sequence[tuple[SourceConfig, Source]]
"""Opened sources with their configurations."""


class TokenizerConfig(Config):
    """Configuration of the tokenizer; not used with `init_from`."""

    path: Path | None = None
    """A `tokenizer.json` to use; null: train one on the captions of the run's sources."""
    kind: str = "bpe"
    """A registered algorithm of training: `bpe`, `unigram` (SentencePiece's, which the paper uses),
    or a plugin's."""
    lowercase: bool = True
    """Convert text to lower case."""
    words: Path | None = None
    """Common words that become one token each: a text file with one word per line, by descending
    frequency. They are part of `text.vocab_size`; for `bpe` only. null: none."""
    word_count: PositiveInt = 8_000
    """Number of words to take from `words`, from the first."""

    @model_validator(mode="after")
    def _check_rules(self) -> "TokenizerConfig":
        TOKENIZERS.get(self.kind)
        if self.words is not None and self.kind != "bpe":
            raise ConfigError(f"tokenizer.words need a tokenizer of kind bpe, got {self.kind}")
        return self

    def common_words(self) -> Sequence[str]:
        """Read the common words; none without `words`."""
        if self.words is None:
            return ()
        try:
            lines = self.words.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the word list {self.words} cannot be read: {error}") from error
        words = tuple(dict.fromkeys(word for line in lines if (word := line.strip())))
        if len(words) < self.word_count:
            raise ConfigError(
                f"{self.words} has {len(words):,} words; {self.word_count:,} are asked for"
            )
        return words[: self.word_count]


class ResolutionConfig(Config):
    """A stage of the run with another image size than the final one."""

    until: Annotated[float, Field(gt=0, lt=1)]
    """End of the stage as a fraction of the run, in (0, 1)."""
    image_size: PositiveInt
    """Side of the images, pixels; a multiple of the model's patch size."""


class FeatureCacheConfig(Config):
    """Cache of a frozen image encoder's features, which training reads in place of images."""

    folder: Path
    """Folder of the feature files, one for each source; missing files are written first. An image
    takes `views` x tokens x features x 2 bytes, 125 kB for a view of EfficientNet-Lite0."""
    views: PositiveInt = 1
    """Augmented views of each image; epoch e reads view e modulo their number."""
    stages: PositiveInt | None = None
    """Cache the output of the encoder's first stages, of 1 to 7 of an EfficientNet; only these must
    be frozen, and training runs the others. null: the final features of an encoder that is wholly
    frozen."""


def dropout_fault(features: FeatureCacheConfig | None, schedule: ScheduleConfig) -> str:
    """Describe the conflict of cached features with patch dropout; empty without one."""
    if features is None or not schedule.patch_dropout:
        return ""
    return (
        f"train.schedule.patch_dropout is {schedule.patch_dropout}, but cached features are of all "
        "patches; set it to 0, or leave out data.features"
    )


class DataConfig(Config):
    """Training data of a pretraining run."""

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    """Sources of the weighted mixture; two sources of equal weight each give half of a batch."""
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    """Batches and workers."""
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    """Image augmentation; default: none."""
    resolution: tuple[ResolutionConfig, ...] = ()
    """Stages with other image sizes before the final stage at the model's own size, by rising
    `until`. Small images cost less: `[{until: 0.5, image_size: 112}]` trains the first half of the
    run at 112 pixels."""
    features: FeatureCacheConfig | None = None
    """Train on cached features of a frozen image encoder (`train.optimizer.freeze`); null: on
    images."""
    resize: Literal["squash", "crop", "pad"] = "squash"
    """Method that makes an image square."""
    trim: bool = False
    """Trim empty borders first, such as those of icons and product photos."""

    @model_validator(mode="after")
    def _check_rules(self) -> "DataConfig":
        for one, other in pairwise(self.resolution):
            if one.until >= other.until:
                raise ConfigError(
                    f"resolution has until {other.until} after {one.until}; each `until` must be "
                    "above the one before"
                )
        self._check_features()
        return self

    def _check_features(self) -> None:
        if self.features is None:
            return
        if self.resolution or self.loader.images_per_sample != 1:
            raise ConfigError(
                "features are of one image of the final size per sample; leave out "
                f"{'resolution' if self.resolution else 'loader.images_per_sample'}, or features"
            )
        if self.features.views > 1 and self.augment == AugmentConfig():
            raise ConfigError(
                f"features.views is {self.features.views}, but without augment all views are "
                "equal; set it to 1, or augment"
            )


def open_sources(configs: Sequence[SourceConfig]) -> Sources:
    """Open the sources of a run; all ranks must call this function.

    The first rank opens them before the others, then the first rank of each other machine, so that
    indexes of tars are made once for a shared folder, and once on a machine with its own cache.
    """
    world, opened = DistributedContext.current(), None
    hosts = world.gather(socket.gethostname(), patient=True)
    turn = 0 if world.is_main else 1 if hosts.index(hosts[world.rank]) == world.rank else 2
    for number in range(3 if world.size > 1 else 1):
        error: CocaError | None = None
        if number == turn:
            try:
                opened = [(config, open_source(config)) for config in configs]
            except CocaError as caught:
                error = caught
        for failed in world.gather(error, patient=True):
            if failed is not None:
                raise failed
    assert opened is not None, "each rank has a turn"
    return opened


def train_tokenizer(
    sources: Sources,
    *,
    vocab_size: int,
    config: TokenizerConfig,
) -> Tokenizer:
    """Train a tokenizer on all texts of the sources: captions, keywords, labels and answers.

    Texts are inserted into their templates.
    """
    total = min(sum(len(source) for _, source in sources), TOKENIZER_SAMPLES)
    with progress_bar("reading captions", total) as bar:

        def texts() -> Iterator[str]:
            for text in _texts(sources):
                bar.advance()
                yield text

        return Tokenizer.train(
            texts(),
            vocab_size=vocab_size,
            kind=config.kind,
            lowercase=config.lowercase,
            words=config.common_words(),
        )


def _texts(sources: Sources) -> Iterator[str]:
    """Yield the texts of each sample as one string; of long sources every n-th sample."""
    total = sum(len(source) for _, source in sources)
    step = -(-total // TOKENIZER_SAMPLES)
    for config, source in sources:
        templates = templates_of(config) or ("{}",)
        read = found = 0
        for row in range(0, len(source), step):
            try:
                sample = source.read_metadata(row)
            except DataError:
                continue  # the loader reports it during the run
            texts, answers = texts_of(sample, config)
            template = templates[row // step % len(templates)]
            read, found = read + 1, found + bool(texts)
            filled = (template.replace("{}", text) for text in texts)
            yield "\n".join([*filled, *keywords_of(sample, config), *answers])
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
) -> Tokenizer:
    """Load the run's tokenizer, or train it and save it in the run directory.

    It is trained again until the run has a checkpoint, since data or vocabulary size may change.
    The main rank trains it; all ranks must call this function.
    """
    path = config.path or run / "tokenizer.json"

    def learn() -> None:
        if not (path.exists() and has_checkpoint(run)):
            tokenizer = train_tokenizer(sources, vocab_size=vocab_size, config=config)
            run.mkdir(parents=True, exist_ok=True)
            tokenizer.save(path)

    if config.path is None:
        DistributedContext.current().broadcast_from_main(learn)
    return Tokenizer.load(path)


def make_processor(
    config: DataConfig,
    tokenizer: TextTokenizer,
    *,
    image_size: int,
    context_length: int,
    normalization: Normalization | None = None,
    caption_words: CaptionWords | None = None,
) -> Processor:
    """Create the processor of images and texts, which is saved with the finished model."""
    image = ImageConfig(image_size=image_size, resize=config.resize, trim=config.trim)
    if normalization is not None:
        image = image.replace(**normalization._asdict())
    return Processor(ImageTransform(image), tokenizer, context_length, caption_words=caption_words)


def _require_usable(config: SourceConfig, source: Source, images: int) -> None:
    """Check three samples of a source; raise if all are unusable in this run."""
    samples = []
    for row in sorted({0, len(source) // 2, len(source) - 1}):
        with suppress(DataError):
            samples.append(source.read(row))
    counts = {len(sample.images) for sample in samples}
    if counts and images not in counts:
        raise DataError(
            f"the samples of {config.title} have {min(counts)} images each, but this run reads "
            f"{images} of each; write a row for each image, or fine-tune a head with images: "
            f"{min(counts)}",
            reason="image_count",
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
    features: Sequence[FeatureFile] = (),
) -> Loader:
    """Create this rank's data loader for a run of `steps` steps on `device`.

    With `features`, one file for each source, batches contain features in place of images.
    """
    if config.loader.max_bad_fraction < _MANY_BAD:
        for source_config, source in sources:
            _require_usable(source_config, source, config.loader.images_per_sample)
    world = DistributedContext.current()
    augment, native = config.augment, processor.image_config
    stages = [
        AugmentStage(
            round(part.until * steps) * config.loader.batch_size,
            Augment(augment, native.replace(image_size=part.image_size)),
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
        features=features,
    )

"""Data of a fine-tuning run: configuration of sources, and classes found in them."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from coca.core.config.base import Config
from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.loading.loader import LoaderConfig
from coca.data.sources.base import SourceConfig, read_metadata
from coca.metrics.answers import normalize_answer
from coca.model.config import HeadConfig
from coca.processing.augment import AugmentConfig
from coca.train.checkpoints.checkpoint import has_checkpoint
from coca.train.distributed.context import DistributedContext
from coca.workflows.training.pretrain_data import DataConfig, FeatureCacheConfig, Sources
from coca.workflows.training.run_dir import write_json


@dataclass(frozen=True, kw_only=True)
class FinetuneDataConfig(Config):
    """Training data of a fine-tuning run; preprocessing is that of the pretrained model."""

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    """Sources of the weighted mixture. A head that reads text needs `text: question` in each."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Batches and workers; classes and images per sample follow from the head."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Image augmentation, such as RandAugment; default: none."""
    features: FeatureCacheConfig | None = None
    """Train on cached features of a frozen image encoder (`encoder_lr: 0`, or
    `train.optimizer.freeze`); null: on images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loader.class_names or self.loader.images_per_sample != 1:
            raise ConfigError(
                "loader.class_names and loader.images_per_sample follow from the head; set "
                "head.classes and head.images_per_sample"
            )

    def for_head(self, head: HeadConfig | None) -> DataConfig:
        """Return the configuration of the data loader, with the classes of the head.

        Raises:
            ConfigError: `features` are set, and the head reads several images per sample, or all
                views are equal.
        """
        loader = self.loader
        if head is not None:
            loader = replace(
                loader, class_names=head.classes, images_per_sample=head.images_per_sample
            )
        return DataConfig(
            sources=self.sources, loader=loader, augment=self.augment, features=self.features
        )


@dataclass(frozen=True, kw_only=True)
class HeadChoice(Config):
    """Configuration of the head that a run trains; see `HeadConfig`."""

    reads: Literal["image", "text"] = "image"
    """Input of the head: `image` reads the image encoder's tokens, `text` the decoder states of
    the question."""
    images_per_sample: PositiveInt = 1
    """Images per sample: 1, 2 for a pair, or the number of frames of a video."""
    heads: PositiveInt = 8
    """Attention heads of the pooler; must divide the width of its input."""
    classes: tuple[str, ...] = ()
    """Class names; empty: all classes of the training data."""
    most_frequent: NonNegativeInt = 0
    """Keep only this many most frequent classes, such as the 3,129 answers of VQA; 0: all."""
    at_least: PositiveInt = 1
    """Keep only classes with at least this many occurrences; an answer counts once per annotator.
    """

    renamed_keys: ClassVar[Mapping[str, str]] = {"pictures": "images_per_sample"}
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"reads": {"words": "text"}}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, unset in (
            ("at_least", self.at_least, 1),
            ("most_frequent", self.most_frequent, 0),
        ):
            if self.classes and value != unset:
                raise ConfigError(f"{name} must be {unset} if head.classes is set, got {value}")


def obtain_classes(
    run: Path,
    sources: Sources,
    head: HeadChoice,
    *,
    by_answers: bool,
    progress: ProgressMaker = silent,
) -> tuple[str, ...]:
    """Return the classes of the run's head; classes found in the data are saved in its folder.

    They are collected again until the run has a checkpoint. The main rank collects them; all ranks
    must call this function.

    Raises:
        DataError: The sources have fewer than two classes.
    """
    if head.classes:
        return head.classes
    path = run / "classes.json"

    def look() -> list[str]:
        if not (path.exists() and has_checkpoint(run)):
            found = find_classes(
                sources,
                by_answers=by_answers,
                most_frequent=head.most_frequent,
                at_least=head.at_least,
                progress=progress,
            )
            run.mkdir(parents=True, exist_ok=True)
            write_json(path, found)
        return json.loads(path.read_text(encoding="utf-8"))

    return tuple(DistributedContext.current().broadcast_from_main(look))


def find_classes(
    sources: Sources,
    *,
    by_answers: bool,
    most_frequent: int = 0,
    at_least: int = 1,
    progress: ProgressMaker = silent,
) -> list[str]:
    """Collect all labels, or all normalized answers, of the sources, sorted by name.

    Args:
        sources: Sources to scan; each sample is read once, without its images if possible.
        by_answers: Collect answers instead of labels.
        most_frequent: Maximum number of classes, the most frequent; 0: all. Ties are broken by
            name.
        at_least: Minimum number of occurrences of a class.
        progress: Optional progress callback.

    Raises:
        DataError: The sources have fewer than two classes.
    """
    counts: Counter[str] = Counter()
    total = sum(len(source) for _, source in sources)
    with progress("looking for classes", total) as bar:
        for names in _names(sources, by_answers):
            counts.update(names)
            bar.advance()
    # Normalization turns an answer such as "the" into an empty string.
    del counts[""]
    if len(counts) < 2:
        what, where = ("answer" if by_answers else "label"), _titles([it for it, _ in sources])
        there = f"only the {what} {next(iter(counts))!r}" if counts else f"no {what}"
        raise DataError(
            f"{where} holds {there}; a head needs two classes at least", reason="no_label"
        )
    often = [name for name in counts if counts[name] >= at_least]
    if len(often) < 2:
        raise DataError(
            f"{len(often)} of {len(counts)} classes occur at least {at_least} times; a head needs "
            "two, so lower head.at_least",
            reason="no_label",
        )
    ordered = sorted(often, key=lambda name: (-counts[name], name))
    return sorted(ordered[:most_frequent] if most_frequent else ordered)


def _names(sources: Sources, by_answers: bool) -> Iterator[Sequence[str]]:
    for _, source in sources:
        for row in range(len(source)):
            names: Sequence[str] = ()
            # The loader reports a bad sample during the run.
            with suppress(DataError):
                sample = read_metadata(source, row)
                names = sample.labels
                if by_answers:
                    names = [normalize_answer(answer) for answer in sample.answers]
            yield names


def _titles(configs: Sequence[SourceConfig]) -> str:
    return " and ".join(config.title for config in configs)

"""The data of a fine-tuning run: its sources, and the classes that are found in them."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.loading.loader import LoaderConfig
from coca.data.sources.base import SourceConfig, words_of
from coca.metrics.answers import normalize_answer
from coca.processing.augment import AugmentConfig
from coca.train.checkpoint import has_checkpoint
from coca.train.distributed_context import DistributedContext
from coca.workflows.training.pretrain_data import Sources
from coca.workflows.training.run_dir import write_json


@dataclass(frozen=True, kw_only=True)
class FinetuneDataConfig:
    """What the run learns from; images and words are prepared as the model was trained."""

    sources: tuple[SourceConfig, ...]
    """A weighted mixture. A head that reads words needs `text: question` there."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Batches and workers; classes and images a sample are those of the head."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Chance in images, such as RandAugment; none by default."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources is empty; a run needs at least one")
        if self.loader.class_names or self.loader.pictures != 1:
            raise ConfigError(
                "loader.class_names and loader.pictures follow from the head; set head.classes and "
                "head.pictures"
            )


@dataclass(frozen=True, kw_only=True)
class HeadChoice:
    """The head that a run trains; see `HeadConfig`."""

    reads: Literal["image", "words"] = "image"
    """`image`: the image encoder's tokens. `words`: the decoder's states of what is asked."""
    pictures: int = 1
    """Pictures of a sample: 1, 2 for a pair, or the frames of a video."""
    heads: int = 8
    """Attention heads of its pooler; a divisor of the width that it reads."""
    classes: tuple[str, ...] = ()
    """What it chooses from; empty: all that occur in the training data."""
    most_frequent: int = 0
    """Take only so many classes, the most frequent ones, such as the 3,129 answers of VQA; 0: all.
    """
    at_least: int = 1
    """Take only classes that occur so often; answers count for each person who gave them."""

    def __post_init__(self) -> None:
        if self.at_least < 1 or (self.at_least > 1 and self.classes):
            raise ConfigError(
                f"at_least is {self.at_least}; right is 1, or more where classes are to be found "
                "in the data"
            )
        if self.most_frequent < 0 or (self.most_frequent and self.classes):
            raise ConfigError(
                f"most_frequent is {self.most_frequent}; right is 0 for all, or a count where "
                "classes are to be found in the data"
            )


def obtain_classes(
    run: Path,
    sources: Sources,
    head: HeadChoice,
    *,
    by_answers: bool,
    progress: ProgressMaker = silent,
) -> tuple[str, ...]:
    """The classes of the run's head; those that are found are kept in its folder.

    Until the run has a checkpoint they are looked for anew. On several ranks the main one looks for
    them, and all must call this.

    Raises:
        DataError: The sources hold fewer than two.
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
    """All labels that occur, or all answers in their normalised form, sorted.

    Args:
        sources: Where to look; each sample is read once, without its images where possible.
        by_answers: Take answers; otherwise labels.
        most_frequent: Keep only so many; 0: all. Of equally frequent ones the first by name stay.
        at_least: Keep only those that occur so often.
        progress: Shows how far it is.

    Raises:
        DataError: The sources hold fewer than two.
    """
    counts: Counter[str] = Counter()
    total = sum(len(source) for _, source in sources)
    with progress("looking for classes", total) as bar:
        for names in _names(sources, by_answers):
            counts.update(names)
            bar.advance()
    # An answer such as "the" leaves nothing once it is normalised.
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
            # The loader counts and names a bad sample when the run meets it.
            with suppress(DataError):
                words = words_of(source, row)
                names = words.labels
                if by_answers:
                    names = [normalize_answer(answer) for answer in words.answers]
            yield names


def _titles(configs: Sequence[SourceConfig]) -> str:
    return " and ".join(config.title for config in configs)

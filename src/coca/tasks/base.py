"""What a downstream problem is: a configuration, a run over samples, a result."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.core.registry import Registry
from coca.data.sample import Sample
from coca.data.sources import Source, SourceConfig, open_source
from coca.inference.predictor import Predictor
from coca.model.decoding import Decoding
from coca.processing.image import decode


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """A problem and the data to solve it on."""

    task: str
    """`retrieval`, `image_retrieval`, `zero_shot`, `captioning`, `pixel_floor`, or what a plugin
    registers."""
    data: SourceConfig
    """The samples that are scored."""
    reference: SourceConfig | None = None
    """Samples with known answers, for tasks that compare with some."""
    prompts: str = "plain"
    """Zero-shot: a named set of prompts, or one template with `{}`."""
    captions: str = "all"
    """Retrieval: `all` captions of a picture are queries, or its `first` only."""
    prompt: str = ""
    """Captioning: words that each caption begins with; they are scored along."""
    decoding: Decoding = field(default_factory=Decoding)
    """Captioning: how words are chosen."""
    rerank: int = 0
    """Retrieval and zero-shot: how many of the best by cosine are put in order again by how likely
    the model is to say their words of the picture; 0: none. Slow: each is a pass of the decoder."""
    limit: int = 0
    """Most samples to score; 0 means all."""

    def __post_init__(self) -> None:
        if self.captions not in ("all", "first"):
            raise ConfigError(f"captions is {self.captions!r}; right is 'all' or 'first'")
        if self.rerank < 0:
            raise ConfigError(f"rerank is {self.rerank}; right is 0 for no reranking, or a count")
        if self.limit < 0:
            raise ConfigError(f"limit is {self.limit}; right is 0 for all, or a count")


@dataclass(frozen=True)
class TaskResult:
    """What a task found."""

    task: str
    """Its name."""
    metrics: Mapping[str, float]
    """Scores; shares lie in 0 to 1. Keys that begin with `chance` say what guessing would give."""
    samples: int
    """Samples that were scored."""
    bad: tuple[str, ...] = ()
    """A sentence for each sample that could not be read and was left out."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What a report may show beside the scores; JSON-able."""


class Task(Protocol):
    """Scores a predictor."""

    def __call__(
        self, predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
    ) -> TaskResult:
        """Runs the task.

        Raises:
            DataError: The samples do not suit the task.
        """
        ...


TASKS: Registry[Task] = Registry("task")


def require_captions(samples: Sequence[Sample], config: TaskConfig) -> None:
    """Checks that each picture has words to be compared with.

    Raises:
        DataError: Some have none.
    """
    without = [sample.key for sample in samples if not sample.captions]
    if without:
        raise DataError(
            f"{len(without)} samples of {config.data.title} have no caption (such as "
            f"{without[0]}); {config.task} needs one for each picture",
            reason="no_caption",
        )


def read_samples(
    config: SourceConfig, *, limit: int = 0, progress: ProgressMaker = silent
) -> tuple[list[Sample], tuple[str, ...]]:
    """Gives the samples of a source in order, and a sentence for each that cannot be used.

    Raises:
        DataError: None can be read.
    """
    source = open_source(config)
    rows = range(min(limit, len(source)) if limit else len(source))
    samples: list[Sample] = []
    bad: list[str] = []
    with progress(f"reading {config.title}", len(rows)) as bar:
        for sample in _readable(source, rows, bad):
            samples.append(sample)
            bar.advance()
    if not samples:
        raise DataError(f"no sample of {config.title} can be read: {bad[0]}", reason="empty_source")
    return samples, tuple(bad)


def _readable(source: Source, rows: range, bad: list[str]) -> Iterator[Sample]:
    for row in rows:
        try:
            sample = source.read(row)
            # Found here, a broken picture is one sample less and not the end of the task.
            decode(sample.image)
            yield sample
        except DataError as error:
            bad.append(f"{source.key(row)}: {error}")

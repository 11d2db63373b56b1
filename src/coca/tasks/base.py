"""What a downstream problem is: a configuration, a run over samples, a result."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.core.registry import Registry
from coca.data.sample import Sample
from coca.data.sources.base import MetadataSource, Source, SourceConfig, StampedSource
from coca.data.sources.factory import open_source
from coca.inference.predictor import Predictor
from coca.model.generation.config import GenerationConfig
from coca.processing.image import decode
from coca.tasks.report_samples import Shown


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """A problem and the data to solve it on."""

    task: str
    """`retrieval`, `zero_shot`, `captioning`, `recognition`, `vqa`, `entailment`, `nlvr2`,
    another of `coca.tasks`, or what a plugin registers."""
    data: SourceConfig
    """The samples that are scored."""
    reference: SourceConfig | None = None
    """Samples with known answers, for tasks that compare with some; for questions those of
    the training, so that the best guess without an image can stand beside the score."""
    prompts: str = "plain"
    """Zero-shot: a named set of prompts, one template with `{}`, or a YAML or JSON file that lists
    templates or gives each class sentences of its own."""
    by: Literal["similarity", "likelihood"] = "similarity"
    """Zero-shot: compare embeddings, or ask how likely the model is to say each class's sentences.
    The second is slower, and favours short and frequent names."""
    video: Literal["mean", "flatten"] = "mean"
    """Zero-shot and retrieval of videos: the mean of the frames' vectors, or one vector for which
    the poolers read all frames' tokens at once."""
    classes: tuple[str, ...] = ()
    """Zero-shot: names to choose from; by default those of the source, or that its samples have."""
    captions: str = "all"
    """Retrieval: `all` captions of an image are queries, or its `first` only."""
    prompt: str = ""
    """Captioning: words that each caption begins with; they are scored along."""
    decoding: GenerationConfig = field(default_factory=GenerationConfig)
    """Captioning: how words are chosen."""
    meteor: bool = False
    """Captioning: METEOR as well, by pycocoevalcap; needs Java and the extra `meteor`."""
    groups: str = ""
    """Captioning: metadata by which scores are also told apart, such as NoCaps' `domain`; each
    group is scored as a corpus of its own."""
    benchmark: str = ""
    """Name in `coca.workflows.evaluation.reference_results` of what this measures; published
    figures of other models then stand beside the model's own."""
    answers: Literal["head", "words"] = "head"
    """Questions: choose among the answers of the model's head, or write the answer behind the
    question, as `decoding` says."""
    rerank: int = 0
    """Retrieval and zero-shot: how many of the best by cosine are put in order again by how likely
    the model is to say their words of the image; 0: none. Slow: each is a pass of the decoder."""
    limit: int = 0
    """Most samples to score; 0 means all."""
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Few-shot: images of each class that are learned from."""
    draws: int = 5
    """Few-shot: how often these images are drawn anew."""
    inverse_penalty: float = 0.0
    """Linear probe and few-shot: weight of the errors against that of the squared weights; 0:
    chosen on a part of the reference, or for few shots the usual one."""

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1 or self.draws < 1:
            raise ConfigError(
                f"shots are {self.shots} and draws {self.draws}; right is 1 or more of each"
            )
        if self.inverse_penalty < 0:
            raise ConfigError(f"inverse_penalty is {self.inverse_penalty}; right is 0, or more")
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
    """What machines may read beside the scores; JSON-able."""
    headline: tuple[str, ...] = ()
    """The metrics by which papers compare models; the first one if there is none here."""
    shown: Shown = field(default_factory=Shown)
    """What a report shows beside the scores."""


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


class Check(Protocol):
    """Finds what a task would stumble over, before anything takes its time."""

    def __call__(self, predictor: Predictor, config: TaskConfig) -> None:
        """Looks at settings, classes and words; reads no image.

        Raises:
            CocaError: The task cannot be run like this.
        """
        ...


PREFLIGHT: Registry[Check] = Registry("check of a task")
"""Under the name of a task; most need none, since data are always looked at."""


def check_task(predictor: Predictor, config: TaskConfig) -> str:
    """Looks whether a task can be run: its name, its data, and its own check if it has one.

    Returns:
        A hash of the content of all files that the task reads: the samples, and a file of prompts.
        Local images count by size and modification time.

    Raises:
        CocaError: It cannot; the message says why.
    """
    TASKS.get(config.task)
    prints = [_samples_digest(config.data, config.limit)]
    if config.reference is not None:
        prints.append(_samples_digest(config.reference))
    if Path(config.prompts).is_file():
        prints.append(hashlib.sha256(Path(config.prompts).read_bytes()).hexdigest())
    if config.task in PREFLIGHT.names():
        PREFLIGHT.get(config.task)(predictor, config)
    return hashlib.sha256(" ".join(prints).encode()).hexdigest()[:16]


def _samples_digest(config: SourceConfig, limit: int = 0) -> str:
    """Hash a source's fingerprint, and the stamps of its samples where it has any.

    A fingerprint alone covers names and sizes: an image or a caption that is replaced by one of
    the same size would keep it.
    """
    source = open_source(config)
    digest = hashlib.sha256(source.fingerprint.encode())
    if isinstance(source, StampedSource):
        for row in range(min(limit, len(source)) if limit else len(source)):
            try:
                stamp = source.stamp(row)
            except DataError:
                stamp = ""  # the task counts and names it
            digest.update(f"{stamp}\n".encode())
    return digest.hexdigest()


def words_in(config: SourceConfig, *, limit: int = 0) -> list[Sample]:
    """The samples of a source without their images; none if the source must read those for it.

    What cannot be read is left out: the task will count and name it.
    """
    source = open_source(config)
    if not isinstance(source, MetadataSource):
        return []
    found = []
    for row in range(min(limit, len(source)) if limit else len(source)):
        with suppress(DataError):
            found.append(source.words(row))
    return found


def require_captions(samples: Sequence[Sample], config: TaskConfig) -> None:
    """Checks that each image has words to be compared with.

    Raises:
        DataError: Some have none.
    """
    without = [sample.key for sample in samples if not sample.captions]
    if without:
        raise DataError(
            f"{len(without)} samples of {config.data.title} have no caption (such as "
            f"{without[0]}); {config.task} needs one for each image",
            reason="no_caption",
        )


def read_samples(
    config: SourceConfig, *, limit: int = 0, progress: ProgressMaker = silent
) -> tuple[list[Sample], tuple[str, ...]]:
    """Gives the samples of a source in order, and a sentence for each that cannot be used.

    Raises:
        DataError: None can be read.
    """
    bad: list[str] = []
    parts = samples_in_parts(config, bad=bad, limit=limit, progress=progress)
    return [sample for part in parts for sample in part], tuple(bad)


def samples_in_parts(
    config: SourceConfig,
    *,
    bad: list[str],
    size: int = 1024,
    limit: int = 0,
    progress: ProgressMaker = silent,
) -> Iterator[list[Sample]]:
    """Gives the samples of a source in order, as many at a time as memory is to hold.

    Args:
        config: The source.
        bad: Gets a sentence for each sample that cannot be used.
        size: Samples at a time.
        limit: Most samples; 0 means all.
        progress: Shows how far it is.

    Raises:
        DataError: None can be read.
    """
    source = open_source(config)
    rows = range(min(limit, len(source)) if limit else len(source))
    part: list[Sample] = []
    with progress(f"reading {config.title}", len(rows)) as bar:
        for sample in _readable(source, rows, bad):
            part.append(sample)
            bar.advance()
            if len(part) == size:
                yield part
                part = []
    if part:
        yield part
    elif len(bad) == len(rows):
        raise DataError(f"no sample of {config.title} can be read: {bad[0]}", reason="empty_source")


def _readable(source: Source, rows: range, bad: list[str]) -> Iterator[Sample]:
    seen: tuple[bytes, ...] = ()
    for row in rows:
        try:
            sample = source.read(row)
            # Found here, a broken image is one sample less and not the end of the task. Questions
            # about one image follow each other.
            if sample.images != seen:
                for image in sample.images:
                    decode(image)
            seen = sample.images
            yield sample
        except DataError as error:
            bad.append(f"{source.key(row)}: {error}")

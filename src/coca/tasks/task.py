"""Downstream tasks: the registry, their configuration and results, and samples for reports.

Axes: N samples, C classes.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from PIL import Image
from pydantic import Field, NonNegativeInt

from coca.core.config.frozen_config import Config
from coca.core.errors import DataError
from coca.core.progress import progress_bar
from coca.core.registry import Registry
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source, SourceConfig
from coca.metrics.classification import confusion_matrix, per_class_accuracy
from coca.model.generation.generation_config import GenerationConfig
from coca.predict.predictor import Predictor
from coca.processing.image import decode
from coca.processing.image_file import ImageInput
from coca.tasks.baselines import ClassifierConfig

# Samples for reports: examples with images, per-class accuracy, confusion matrix.


THUMBNAIL_PX = 144
WIDE_LINE = 32
"""Length of a line, in characters, above which the examples of a row are wider."""
SHOWN = 8
"""Number of correct and of wrong samples in a report."""
MAX_CLASSES = 30
"""Maximum number of classes in a confusion matrix; the most confused classes are kept."""


@dataclass(frozen=True)
class Example:
    """An image with lines of text, or the text alone."""

    lines: tuple[str, ...]
    """Lines of text below the image."""
    image: ImageInput | None = field(default=None, repr=False)
    """The image in any form that `decode` reads, or None. Tasks store a `thumbnail`."""
    correct: bool = False
    """Whether the model was correct; the report marks such examples."""


@dataclass(frozen=True)
class ImageRow:
    """A row of examples, such as the hits of a query."""

    heading: str
    """Heading of the row."""
    examples: tuple[Example, ...]
    """Examples, from left to right."""
    lead: Example | None = None
    """The query image, placed first, or None."""

    @property
    def wide(self) -> bool:
        """Whether the examples have sentences, which need more width."""
        return any(len(line) > WIDE_LINE for example in self.examples for line in example.lines)


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix of a classifier."""

    names: tuple[str, ...]
    """Names of the classes in the matrix."""
    counts: tuple[tuple[int, ...], ...]
    """Number of samples of each true class (row) predicted as each class (column)."""
    classes: int
    """Total number of classes, in the matrix or not."""


@dataclass(frozen=True)
class ReportSamples:
    """Samples and per-class results of one task, for the report."""

    rows: tuple[ImageRow, ...] = ()
    """Best and worst examples, or queries with their hits."""
    per_class: Mapping[str, float] = field(default_factory=dict)
    """Accuracy of each class, 0 to 1."""
    confusion: Confusion | None = None
    """Confusion matrix, for classification tasks."""


def thumbnail(image: ImageInput, size_px: int = THUMBNAIL_PX) -> bytes:
    """Encode an image as a WebP thumbnail of at most `size_px` x `size_px` pixels."""
    small = Image.fromarray(decode(image).permute(1, 2, 0).contiguous().numpy())
    small.thumbnail((size_px, size_px))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def filled_rows(examples: Mapping[str, Sequence[Example]]) -> tuple[ImageRow, ...]:
    """Build a row of each heading that has examples."""
    return tuple(ImageRow(heading, tuple(row)) for heading, row in examples.items() if row)


class FirstExamples:
    """The first correct and the first wrong answers of a task, each about another image."""

    def __init__(self) -> None:
        self._found: dict[str, list[Example]] = {"Correct": [], "Wrong": []}

    def add(self, sample: Sample, lines: tuple[str, ...], *, correct: bool) -> None:
        """Add an answer, unless there are enough."""
        found = self._found["Correct" if correct else "Wrong"]
        if len(found) < SHOWN:
            image = thumbnail(sample.image)
            if all(example.image != image for example in found):
                found.append(Example(lines, image, correct=correct))

    def rows(self) -> tuple[ImageRow, ...]:
        """Return the rows of the report."""
        return filled_rows(self._found)


def per_class_results(
    predicted: Int[ndarray, " N"], targets: Int[ndarray, " N"], names: Sequence[str]
) -> tuple[dict[str, float], Confusion]:
    """Compute the accuracy of each class that has samples, and the confusion matrix."""
    accuracy = per_class_accuracy(predicted, targets, len(names))
    per_class = {
        name: float(share)
        for name, share in zip(names, accuracy, strict=True)
        if not np.isnan(share)
    }
    return per_class, _confusion(confusion_matrix(predicted, targets, len(names)), names)


def _confusion(counts: Int[ndarray, "C C"], names: Sequence[str]) -> Confusion:
    wrong = counts.sum(axis=1) + counts.sum(axis=0) - 2 * counts.diagonal()
    kept = np.sort(np.argsort(-wrong, kind="stable")[:MAX_CLASSES])
    part = counts[np.ix_(kept, kept)]
    return Confusion(
        tuple(names[index] for index in kept),
        tuple(tuple(int(count) for count in row) for row in part),
        len(names),
    )


# Interface of downstream tasks: configuration, evaluation over samples, result.


class TaskConfig(Config):
    """Configuration of a task and the data to evaluate it on."""

    task: str
    """`retrieval`, `zero_shot`, `captioning`, `recognition`, `vqa`,
    `entailment`, `nlvr2`, another task of `coca.tasks`, or the name of a plugin's task."""
    data: SourceConfig
    """The samples to evaluate on."""
    reference: SourceConfig | None = None
    """Reference samples with labels or answers, for tasks that need them. VQA: the training
    questions, for the language-prior baseline (best guess without the image)."""
    prompts: str = "plain"
    """Zero-shot: a named prompt set, one template with `{}`, or a YAML or JSON file of templates or
    of prompts per class."""
    by: Literal["similarity", "likelihood"] = "similarity"
    """Zero-shot: rank classes by embedding similarity, or by the likelihood of their prompts.
    `likelihood` is slower, and favours short and frequent names."""
    video: Literal["mean", "flatten"] = "mean"
    """Zero-shot and retrieval of videos: `mean` averages the frames' vectors; `flatten` pools the
    tokens of all frames at once into one vector."""
    classes: tuple[str, ...] = ()
    """Zero-shot: class names; default: the classes of the source, else of its samples."""
    captions: Literal["all", "first"] = "all"
    """Retrieval: use `all` captions of an image as queries, or its `first` only."""
    prompt: str = ""
    """Captioning: text that each caption begins with; it is part of the scored caption."""
    decoding: GenerationConfig = Field(default_factory=GenerationConfig)
    """Captioning, and VQA with `answers: generation`: decoding options."""
    meteor: bool = False
    """Captioning: compute METEOR as well, by pycocoevalcap; needs Java and the extra `meteor`."""
    groups: str = ""
    """Captioning: metadata key by which samples are also scored in groups, such as NoCaps'
    `domain`; each group is scored as its own corpus."""
    benchmark: str = ""
    """Name of the benchmark in `coca.workflows.evaluation.evaluation_report`; the report then
    compares the scores with published results."""
    answers: Literal["head", "generation"] = "head"
    """VQA: `head` classifies among the answers of the model's head; `generation` generates the
    answer after the question, with the options of `decoding`."""
    rerank: NonNegativeInt = 0
    """Retrieval and zero-shot: number of top hits by cosine to rerank by caption
    likelihood; 0: no reranking. Slow: one decoder pass per hit."""
    classifier: ClassifierConfig | None = None
    """Zero-shot and retrieval: a pretrained image encoder with its own classifier,
    whose scores are a baseline (`encoder`)."""
    limit: NonNegativeInt = 0
    """Maximum number of samples; 0: all."""


@dataclass(frozen=True)
class TaskResult:
    """Result of a task."""

    task: str
    """Name of the task."""
    metrics: Mapping[str, float]
    """Metric names to values; fractions are in [0, 1]. Keys that begin with `chance` contain the
    chance level."""
    samples: int
    """Number of evaluated samples."""
    bad: tuple[str, ...] = ()
    """Error message of each unreadable sample, which is skipped."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further JSON-serializable results."""
    headline: tuple[str, ...] = ()
    """Metrics by which papers compare models; if empty, the first metric."""
    report_samples: ReportSamples = field(default_factory=ReportSamples)
    """Samples for the report."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95 % confidence intervals of metrics over the samples, for one model; see
    `coca.metrics.intervals`."""
    notes: tuple[str, ...] = ()
    """Sentences about the data, such as how many images were left out, for the report."""


class Task(Protocol):
    """Evaluates a predictor on a downstream task."""

    def __call__(self, predictor: Predictor, config: TaskConfig) -> TaskResult:
        """Run the task."""
        ...


TASKS: Registry[Task] = Registry("task", "tasks")


class Check(Protocol):
    """Preflight check of a task: finds errors before the evaluation starts."""

    def __call__(self, predictor: Predictor, config: TaskConfig) -> None:
        """Check settings, classes and texts; no image is read."""
        ...


PREFLIGHT: Registry[Check] = Registry("check of a task")
"""Preflight checks by task name; optional, since `check_task` always checks the data."""


def check_task(predictor: Predictor, config: TaskConfig) -> None:
    """Check that a task can run: its name, its data and its preflight check."""
    TASKS.get(config.task)
    for data in (config.data, config.reference):
        if data is not None:
            open_source(data)
    if config.task in PREFLIGHT.names():
        PREFLIGHT.get(config.task)(predictor, config)


def read_all_metadata(config: SourceConfig, *, limit: int = 0) -> list[Sample]:
    """Read the samples of a source without images; none if the source must read images for it.

    Unreadable samples are skipped; the task reports them later.
    """
    source = open_source(config)
    if not source.has_metadata:
        return []
    found = []
    for row in range(min(limit, len(source)) if limit else len(source)):
        with suppress(DataError):
            found.append(source.read_metadata(row))
    return found


def require_captions(samples: Sequence[Sample], config: TaskConfig) -> None:
    """Check that each sample has a caption."""
    without = [sample.key for sample in samples if not sample.captions]
    if without:
        raise DataError(
            f"{len(without)} samples of {config.data.title} have no caption (such as "
            f"{without[0]}); {config.task} needs one for each image",
            reason="no_caption",
        )


def images_digest(sample: Sample) -> bytes:
    """Hash the bytes of a sample's images, to recognize the same ones elsewhere."""
    digests = b"".join(hashlib.sha256(image).digest() for image in sample.images)
    return hashlib.sha256(digests).digest()


def read_samples(config: SourceConfig, *, limit: int = 0) -> tuple[list[Sample], tuple[str, ...]]:
    """Read the samples of a source in order, and an error message for each unreadable sample."""
    bad: list[str] = []
    parts = samples_in_parts(config, bad=bad, limit=limit)
    return [sample for part in parts for sample in part], tuple(bad)


def samples_in_parts(
    config: SourceConfig,
    *,
    bad: list[str],
    size: int = 1024,
    limit: int = 0,
) -> Iterator[list[Sample]]:
    """Read the samples of a source in order, in chunks that fit into memory.

    Args:
        config: The source.
        bad: Receives an error message for each unreadable sample.
        size: Samples per chunk.
        limit: Maximum number of samples; 0: all.
    """
    source = open_source(config)
    rows = range(min(limit, len(source)) if limit else len(source))
    part: list[Sample] = []
    with progress_bar(f"reading {config.title}", len(rows)) as bar:
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
            # Decoded here, so that a broken image skips its sample and does not end the task.
            # Consecutive samples may be questions about the same image.
            if sample.images != seen:
                for image in sample.images:
                    decode(image)
            seen = sample.images
            yield sample
        except DataError as error:
            bad.append(f"{source.key(row)}: {error}")

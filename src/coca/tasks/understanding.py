"""Question answering and entailment tasks: VQA, SNLI-VE and NLVR2.

The head is the paper's: a pooler over the decoder states of the question, co-trained with the
captioning loss on question and answer (CoCa, appendix B). The same weights can generate the answer.

Visual entailment classifies whether an image entails a hypothesis, is neutral to it or contradicts
it. NLVR2 classifies whether a sentence is true of two images. The head is the one of VQA. Each
image passes the decoder separately, and the pooled outputs are concatenated (CoCa, appendix B).
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from coca.core.errors import ConfigError, DataError
from coca.data.loading.text import templates_of
from coca.data.sample import Sample
from coca.data.sources.source import SourceConfig
from coca.metrics.answers import (
    LanguagePrior,
    answer_scores,
    consistency,
    exact_match,
    normalize_answer,
    vqa_accuracy,
)
from coca.metrics.classification import per_class_accuracy, softmax
from coca.metrics.intervals import grouped_interval
from coca.model.coca_config import HeadConfig
from coca.model.heads import head_of
from coca.predict.predictor import Predictor
from coca.predict.torch_predictor import require_coca
from coca.tasks.baselines import class_guesses
from coca.tasks.classification.recognition import class_indices
from coca.tasks.task import (
    PREFLIGHT,
    TASKS,
    FirstExamples,
    ImageRow,
    ReportSamples,
    TaskConfig,
    TaskResult,
    images_digest,
    per_class_results,
    read_all_metadata,
    samples_in_parts,
)

# Text inputs of VQA and entailment: prompts from questions or statements.


def text_inputs(samples: Sequence[Sample], config: SourceConfig) -> list[str]:
    """Insert the text of each sample into the source's first template."""
    template = templates_of(config)[0] if config.templates else "{}"
    return [template.replace("{}", sample.text.strip()) for sample in samples]


def require_texts(samples: Sequence[Sample], config: TaskConfig) -> None:
    """Check that each sample has a question, sentence or hypothesis."""
    if without := [sample.key for sample in samples if not sample.text.strip()]:
        raise DataError(
            f"{len(without)} samples of {config.data.title} have no text (such as "
            f"{without[0]}); {config.task} needs a question, sentence or hypothesis for each",
            reason="no_text",
        )


# Visual question answering, by a classification head or by generation, with VQA accuracy.


MOST_SAID = 20
"""Number of most frequent answers listed with count and accuracy."""

VQA_PART = 1024
"""Questions whose images are in memory at the same time."""


@dataclass(frozen=True)
class _Answered:
    """A question without its image, and the model's answer."""

    sample: Sample
    completion: str
    image: bytes
    """Its digest: questions about the same image are not independent."""


@TASKS.register("vqa")
def vqa(predictor: Predictor, config: TaskConfig) -> TaskResult:
    """Compute VQA accuracy, overall and by answer type; exact match with a single annotator.

    Baselines without the image: the best score that the head's answer list allows (`reachable`),
    chance over that list, and always the most frequent answer (`majority`). With a `reference`, the
    language prior (`blind`) gives the most frequent answer to the longest known question prefix.
    """
    bad: list[str] = []
    answered: list[_Answered] = []
    worth: list[float] = []
    shown = FirstExamples()
    for part in samples_in_parts(config.data, bad=bad, size=VQA_PART, limit=config.limit):
        completion = _answers(predictor, config, part)
        scores = accuracies(completion, part)
        worth += scores.tolist()
        _show_answers(shown, part, completion, scores)
        answered += [
            _Answered(replace(sample, image=b"", others=()), answer, images_digest(sample))
            for sample, answer in zip(part, completion, strict=True)
        ]
    each = np.array(worth)
    samples = [one.sample for one in answered]
    metrics = {"accuracy": float(each.mean())} | _by_kind(samples, each)
    if config.answers == "head":
        metrics |= _of_the_list(predictor.classes, samples)
    metrics |= language_prior_scores(config, samples)
    return TaskResult(
        "vqa",
        metrics,
        len(samples),
        tuple(bad),
        _details(answered, each),
        headline=("accuracy",),
        report_samples=ReportSamples(shown.rows()),
        intervals={"accuracy": grouped_interval(each, [one.image for one in answered])},
    )


@PREFLIGHT.register("vqa")
def check_vqa(predictor: Predictor, config: TaskConfig) -> None:
    """Check that the head reads questions, and that each question has an answer."""
    if config.answers == "head":
        head = head_of(require_coca(predictor).model).config
        if head.reads != "text" or head.images_per_sample != 1:
            raise ConfigError(
                f"the model's head reads {head.reads} of {head.images_per_sample} images; "
                "questions need a head that reads text and one image, or `answers: generation`"
            )
    samples = read_all_metadata(config.data, limit=config.limit)
    require_texts(samples, config)
    _require_answers(samples, config)
    if config.reference is not None:
        _known(config)


def accuracies(completion: Sequence[str], samples: Sequence[Sample]) -> Float[ndarray, " N"]:
    """Compute VQA accuracy of each answer, 0 to 1; exact match with a single annotator."""
    answers = [sample.answers for sample in samples]
    alone = np.array([len(given) == 1 for given in answers])
    return np.where(alone, exact_match(completion, answers), vqa_accuracy(completion, answers))


def language_prior_scores(config: TaskConfig, samples: Sequence[Sample]) -> dict[str, float]:
    """Compute the accuracy of the most frequent answer and of the language prior.

    Without a `reference`, only the most frequent answer of the evaluated samples is scored.
    """
    known = samples if config.reference is None else _known(config)
    guess = LanguagePrior([it.text for it in known], [it.answers for it in known])
    most = accuracies([guess.most_frequent] * len(samples), samples)
    scores = {"majority_accuracy": float(most.mean())}
    if config.reference is not None:
        guesses = [guess(sample.text) for sample in samples]
        scores["blind_accuracy"] = float(accuracies(guesses, samples).mean())
    return scores


def _answers(predictor: Predictor, config: TaskConfig, samples: Sequence[Sample]) -> list[str]:
    texts = text_inputs(samples, config.data)
    if config.answers == "head":
        logits = predictor.head_logits([sample.image for sample in samples], texts)
        return [predictor.classes[index] for index in logits.argmax(axis=1)]
    captions = predictor.caption(
        [sample.image for sample in samples],
        prompt=texts,
        decoding=config.decoding,
    )
    return [caption.completion for caption in captions]


def _by_kind(samples: Sequence[Sample], each: Float[ndarray, " N"]) -> dict[str, float]:
    """Compute accuracy by `answer_type`, as in the official evaluation; empty without types."""
    kinds = [str(sample.metadata.get("answer_type", "")) for sample in samples]
    return {
        f"accuracy_{kind}": float(each[[one == kind for one in kinds]].mean())
        for kind in sorted({*kinds} - {""})
    }


def _of_the_list(classes: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
    """Compute the best accuracy that the head's answers allow, and the chance level."""
    known = {*classes}
    worth = [
        [value for answer, value in answer_scores(sample.answers).items() if answer in known]
        for sample in samples
    ]
    return {
        "reachable": float(np.mean([max(one, default=0.0) for one in worth])),
        "chance_accuracy": float(np.mean([sum(one) for one in worth])) / len(classes),
    }


def _known(config: TaskConfig) -> list[Sample]:
    assert config.reference is not None
    known = [sample for sample in read_all_metadata(config.reference) if sample.answers]
    if not known:
        raise DataError(
            f"no question of {config.reference.title} has an answer; a reference must",
            reason="no_answer",
        )
    return known


def _require_answers(samples: Sequence[Sample], config: TaskConfig) -> None:
    if without := [sample.key for sample in samples if not sample.answers]:
        raise DataError(
            f"{len(without)} questions of {config.data.title} have no answer (such as "
            f"{without[0]}); scoring needs one for each",
            reason="no_answer",
        )


def _show_answers(
    shown: FirstExamples,
    samples: Sequence[Sample],
    completion: Sequence[str],
    scores: Float[ndarray, " N"],
) -> None:
    for sample, answer, score in zip(samples, completion, scores.tolist(), strict=True):
        people = ", ".join(one for one, _ in Counter(sample.answers).most_common(3))
        lines = (sample.text, f"predicted: {answer}", f"annotated: {people}")
        shown.add(sample, lines, correct=score > 0)


def _details(answered: Sequence[_Answered], each: Float[ndarray, " N"]) -> dict[str, Any]:
    worth = defaultdict[str, list[float]](list)
    for one, score in zip(answered, each.tolist(), strict=True):
        worth[normalize_answer(one.completion)].append(score)
    most = sorted(worth.items(), key=lambda it: (-len(it[1]), it[0]))[:MOST_SAID]
    return {
        "different_answers": len(worth),
        "most_said": [
            {"answer": answer, "times": len(scores), "accuracy": float(np.mean(scores))}
            for answer, scores in most
        ],
        # As VQA's evaluation server reads them.
        "results": [
            {
                "question_id": one.sample.metadata.get("question_id", one.sample.key),
                "answer": one.completion,
            }
            for one in answered
        ],
    }


# Visual entailment (SNLI-VE) and NLVR2, by a classification head.

ENTAILMENT_PART = 512
"""Statements whose images are in memory at the same time."""


@dataclass(frozen=True)
class _Judged:
    """Statements without their images, with predicted and true classes."""

    samples: list[Sample]
    images: list[bytes]
    """Digests of their images."""
    predicted: Int[ndarray, " N"]
    targets: Int[ndarray, " N"]
    bad: tuple[str, ...]
    rows: tuple[ImageRow, ...]


@TASKS.register("entailment")
def entailment(predictor: Predictor, config: TaskConfig) -> TaskResult:
    """Compute accuracy, overall and per class, with chance and majority-class accuracy."""
    judged = _judge(predictor, config)
    return _result("entailment", judged, predictor.classes, {}, groups=judged.images)


@TASKS.register("nlvr2")
def nlvr2(predictor: Predictor, config: TaskConfig) -> TaskResult:
    """Compute accuracy and consistency: the fraction of sentences correct for all their images.

    Sentences are grouped by the metadata key `group`, else by their text. Statements about one
    image are scored in the same way.
    """
    judged = _judge(predictor, config)
    groups = [str(it.metadata.get("group", it.text)) for it in judged.samples]
    most = np.bincount(judged.targets).argmax()
    further = {
        "consistency": consistency(judged.predicted == judged.targets, groups),
        "majority_consistency": consistency(judged.targets == most, groups),
        "sentences": float(len({*groups})),
    }
    return _result("nlvr2", judged, predictor.classes, further, groups=groups)


@PREFLIGHT.register("entailment")
@PREFLIGHT.register("nlvr2")
def check_entailment(predictor: Predictor, config: TaskConfig) -> None:
    """Check that the head reads text, and that all samples have a text and a known label."""
    head = _text_head(predictor)
    samples = read_all_metadata(config.data, limit=config.limit)
    require_texts(samples, config)
    class_indices(samples, head.classes, config.data.title)


def _judge(predictor: Predictor, config: TaskConfig) -> _Judged:
    head = _text_head(predictor)
    samples: list[Sample] = []
    images: list[bytes] = []
    all_logits: list[Float[ndarray, "n K"]] = []
    shown, bad = FirstExamples(), list[str]()
    for part in samples_in_parts(config.data, bad=bad, size=ENTAILMENT_PART, limit=config.limit):
        usable = _with_enough_images(part, head, bad)
        if not usable:
            continue
        logits = predictor.head_logits(
            [sample.images for sample in usable], text_inputs(usable, config.data)
        )
        _show_verdicts(
            shown, usable, logits, class_indices(usable, head.classes, config.data.title), head
        )
        all_logits.append(logits)
        images += map(images_digest, usable)
        samples += [replace(sample, image=b"", others=()) for sample in usable]
    if not samples:
        raise ConfigError(
            f"no statement of {config.data.title} has as many images as the model's head reads "
            f"({head.images_per_sample}): {bad[0]}"
        )
    return _Judged(
        samples,
        images,
        np.concatenate(all_logits).argmax(axis=1),
        class_indices(samples, head.classes, config.data.title),
        tuple(bad),
        shown.rows(),
    )


def _result(
    task: str,
    judged: _Judged,
    classes: Sequence[str],
    further: dict[str, float],
    *,
    groups: Sequence[object],
) -> TaskResult:
    """Build the result; statements of a group are not independent."""
    correct = judged.predicted == judged.targets
    each = per_class_accuracy(judged.predicted, judged.targets, len(classes))
    metrics = {
        "accuracy": float(correct.mean()),
        **further,
        "mean_per_class": float(np.nanmean(each)),
        **{
            f"accuracy_{name}": float(share)
            for name, share in zip(classes, each, strict=True)
            if not np.isnan(share)
        },
        **class_guesses("accuracy", judged.targets, len(classes)),
    }
    predicted_share = np.bincount(judged.predicted, minlength=len(classes)) / len(correct)
    per_class, confusion = per_class_results(judged.predicted, judged.targets, list(classes))
    return TaskResult(
        task,
        metrics,
        len(correct),
        judged.bad,
        {"predicted_share": dict(zip(classes, predicted_share.tolist(), strict=True))},
        headline=("accuracy", "consistency") if "consistency" in further else ("accuracy",),
        report_samples=ReportSamples(judged.rows, per_class, confusion),
        intervals={"accuracy": grouped_interval(correct.astype(np.float64), groups)},
    )


def _text_head(predictor: Predictor) -> HeadConfig:
    head = head_of(require_coca(predictor).model).config
    if head.reads != "text":
        raise ConfigError(
            "the model's head reads images only; a statement needs a head that reads text"
        )
    return head


def _with_enough_images(part: list[Sample], head: HeadConfig, bad: list[str]) -> list[Sample]:
    """Return the samples with as many images as the head reads; report the others in `bad`."""
    usable = []
    for sample in part:
        if len(sample.images) == head.images_per_sample:
            usable.append(sample)
        else:
            bad.append(
                f"{sample.key}: it has {len(sample.images)} images, but the head reads "
                f"{head.images_per_sample}"
            )
    return usable


def _show_verdicts(
    shown: FirstExamples,
    samples: Sequence[Sample],
    logits: Float[ndarray, "N K"],
    targets: Int[ndarray, " N"],
    head: HeadConfig,
) -> None:
    sure = softmax(logits)
    for sample, row, target in zip(samples, sure, targets.tolist(), strict=True):
        predicted = int(row.argmax())
        lines = (
            sample.text,
            f"predicted: {head.classes[predicted]} ({row[predicted]:.0%})",
            f"true: {head.classes[target]}",
        )
        shown.add(sample, lines, correct=predicted == target)

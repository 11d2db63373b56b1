"""Visual question answering, by a classification head or by generation, with VQA accuracy.

The head is the paper's: a pooler over the decoder states of the question, co-trained with the
captioning loss on question and answer (CoCa, appendix B). The same weights can generate the answer.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, silent
from coca.data.sample import Sample
from coca.inference.head_inference import head_of
from coca.inference.predictor import Predictor
from coca.metrics.answers import answer_scores, exact_match, normalize_answer, vqa_accuracy
from coca.metrics.language_prior import LanguagePrior
from coca.tasks.base import (
    PREFLIGHT,
    TASKS,
    TaskConfig,
    TaskResult,
    read_all_metadata,
    samples_in_parts,
)
from coca.tasks.report_samples import Example, ImageRow, ReportSamples, thumbnail
from coca.tasks.understanding.prompts import require_texts, text_inputs

SHOWN = 8
"""Number of correct and of wrong questions in a report."""

MOST_SAID = 20
"""Number of most frequent answers listed with count and accuracy."""

PART = 1024
"""Questions whose images are in memory at the same time."""


@dataclass(frozen=True)
class _Answered:
    """A question without its image, and the model's answer."""

    sample: Sample
    completion: str


@TASKS.register("vqa")
def vqa(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute VQA accuracy, overall and by answer type; exact match with a single annotator.

    Baselines without the image: the best score that the head's answer list allows (`reachable`),
    chance over that list, and always the most frequent answer (`majority`). With a `reference`, the
    language prior (`blind`) gives the most frequent answer to the longest known question prefix.
    """
    bad: list[str] = []
    answered: list[_Answered] = []
    worth: list[float] = []
    shown: dict[bool, list[Example]] = {True: [], False: []}
    for part in samples_in_parts(
        config.data, bad=bad, size=PART, limit=config.limit, progress=progress
    ):
        completion = _answers(predictor, config, part)
        scores = accuracies(completion, part)
        worth += scores.tolist()
        _show(shown, part, completion, scores)
        answered += [
            _Answered(replace(sample, image=b"", others=()), answer)
            for sample, answer in zip(part, completion, strict=True)
        ]
    each = np.array(worth)
    samples = [one.sample for one in answered]
    metrics = {"accuracy": float(each.mean())} | _by_kind(samples, each)
    if config.answers == "head":
        metrics |= _of_the_list(predictor.classes, samples)
    metrics |= language_prior_scores(config, samples)
    rows = tuple(
        ImageRow(heading, tuple(shown[correct]))
        for correct, heading in ((True, "Correct"), (False, "Wrong"))
        if shown[correct]
    )
    return TaskResult(
        "vqa",
        metrics,
        len(samples),
        tuple(bad),
        _details(answered, each),
        headline=("accuracy",),
        report_samples=ReportSamples(rows),
    )


@PREFLIGHT.register("vqa")
def check(predictor: Predictor, config: TaskConfig) -> None:
    """Check that the head reads questions, and that each question has an answer."""
    if config.answers == "head":
        head = head_of(predictor.model)
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


def _show(
    shown: dict[bool, list[Example]],
    samples: Sequence[Sample],
    completion: Sequence[str],
    scores: Float[ndarray, " N"],
) -> None:
    """Add the first correct and the first wrong questions to the report, one per image."""
    for sample, answer, score in zip(samples, completion, scores.tolist(), strict=True):
        correct = score > 0
        if len(shown[correct]) < SHOWN:
            image = thumbnail(sample.image)
            if all(example.image != image for example in shown[correct]):
                people = ", ".join(one for one, _ in Counter(sample.answers).most_common(3))
                lines = (sample.text, f"predicted: {answer}", f"annotated: {people}")
                shown[correct].append(Example(lines, image, correct=correct))


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
        "results": list(_results(answered)),
    }


def _results(answered: Sequence[_Answered]) -> Iterator[dict[str, Any]]:
    """Yield the answers in the format of VQA's evaluation server."""
    for one in answered:
        yield {
            "question_id": one.sample.metadata.get("question_id", one.sample.key),
            "answer": one.completion,
        }

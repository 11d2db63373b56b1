"""Captioning task: generated captions scored against references; METEOR with the extra `meteor`.

Its tables of stems, synonyms and paraphrases make a reimplementation impractical. All other caption
metrics are computed without Java, in `coca.metrics.caption_metrics`.

CoCa's Table 7 reports CIDEr, BLEU-4, METEOR and SPICE. SPICE is not computed: it needs a Java
parser that no package provides.

Dimensions: N images, E embedding.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from coca.core.errors import ConfigError, DataError
from coca.core.extras import require
from coca.core.progress import progress_bar
from coca.data.sample import Sample
from coca.metrics.caption_metrics import caption_scores, cider, words
from coca.metrics.intervals import mean_interval
from coca.predict.predictor import Predictor
from coca.tasks.task import (
    PREFLIGHT,
    TASKS,
    Example,
    ReportSamples,
    TaskConfig,
    TaskResult,
    filled_rows,
    read_all_metadata,
    read_samples,
    require_captions,
    thumbnail,
)

# METEOR (Denkowski and Lavie 2014), by the authors' Java program in pycocoevalcap 1.2.


def require_meteor() -> None:
    """Check that METEOR can run on this machine."""
    require("pycocoevalcap.meteor.meteor", extra="meteor")
    if shutil.which("java") is None:
        raise ConfigError(
            "METEOR is a Java program, and there is no `java` on the path; install a Java runtime, "
            "or leave METEOR out with `meteor: false`"
        )


def meteor(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> float:
    """Compute METEOR of a corpus of tokenized captions, 0 to 1."""
    require_meteor()
    from pycocoevalcap.meteor.meteor import Meteor

    answers = {row: [" ".join(candidate)] for row, candidate in enumerate(candidates)}
    truth = {row: [" ".join(it) for it in group] for row, group in enumerate(references)}
    program = Meteor()
    try:
        score, _ = program.compute_score(truth, answers)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the METEOR program stopped ({error}); it needs a Java that may use 2 GB of memory"
        ) from error
    finally:
        if program.lock.locked():  # after a failure; its destructor would deadlock on the lock
            program.lock.release()
        for pipe in (program.meteor_p.stdin, program.meteor_p.stdout, program.meteor_p.stderr):
            with suppress(OSError):
                pipe.close()
    return float(score)


# Image captioning, scored against human captions by the COCO caption evaluation.


SHOWN = 5
"""Number of best and of worst captions in a report."""


@TASKS.register("captioning")
def captioning(predictor: Predictor, config: TaskConfig) -> TaskResult:
    """Compute CIDEr, BLEU-1 to 4 and ROUGE-L against all captions of each image.

    The chance level is the score of the same captions assigned to other images. It measures what
    the language of the captions alone achieves. The baseline `nearest` writes nothing: it copies
    the first human caption of the nearest other image, by the model's embeddings. Both need at
    least two images.
    """
    samples, bad = read_samples(config.data, limit=config.limit)
    require_captions(samples, config)
    generated = [
        caption.text
        for caption in predictor.caption(
            [sample.image for sample in samples],
            prompt=config.prompt,
            decoding=config.decoding,
        )
    ]
    vectors = predictor.embed_images([sample.image for sample in samples])
    with progress_bar("scoring captions", None):
        candidates = [words(text) for text in generated]
        references = [[words(text) for text in sample.captions] for sample in samples]
        metrics = caption_scores(candidates, references)
        half = len(samples) // 2
        if half:
            # Shifted by half the set: neighbouring images often show the same place or kind.
            moved = caption_scores(candidates[half:] + candidates[:half], references)
            metrics |= {f"chance_{name}": value for name, value in moved.items()}
            copied = [references[row][0] for row in nearest_others(vectors)]
            nearest = caption_scores(copied, references)
            metrics |= {f"nearest_{name}": value for name, value in nearest.items()}
        if config.meteor:
            metrics["meteor"] = meteor(candidates, references)
        metrics |= _of_groups(config, samples, candidates, references)
        each = cider(candidates, references)
    order = np.argsort(-each, kind="stable").tolist()
    best, worst = order[:SHOWN], order[max(SHOWN, len(order) - SHOWN) :]
    details = {
        "examples": [_detail(samples[row], generated[row], each[row]) for row in best + worst],
        "different": len(set(generated)),
    }
    shown = {
        heading: [_example(samples[row], generated[row], each[row]) for row in rows]
        for heading, rows in (("Most like people's", best), ("Least like people's", worst))
    }
    return TaskResult(
        "captioning",
        metrics,
        len(samples),
        bad,
        details,
        headline=("cider", "bleu@4", *(("meteor",) if config.meteor else ())),
        report_samples=ReportSamples(filled_rows(shown)),
        # CIDEr is the mean over images; the weights of words, which are the set's, count as given.
        intervals={"cider": mean_interval(each)} if half else {},
    )


def nearest_others(vectors: Float[ndarray, "N E"]) -> list[int]:
    """Return the row of the nearest other vector by cosine, for each of at least two vectors."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines.argmax(axis=1).tolist()


@PREFLIGHT.register("captioning")
def check(predictor: Predictor, config: TaskConfig) -> None:
    """Check that all images have captions and groups, and that METEOR can run."""
    if config.meteor:
        require_meteor()
    found = read_all_metadata(config.data, limit=config.limit)
    require_captions(found, config)
    _groups(config, found)


def _of_groups(
    config: TaskConfig,
    samples: Sequence[Sample],
    candidates: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
) -> dict[str, float]:
    """Compute CIDEr and BLEU-4 of each group, under keys such as `cider/in-domain`."""
    groups = _groups(config, samples)
    found: dict[str, float] = {}
    for name in sorted(set(groups)):
        rows = [row for row, group in enumerate(groups) if group == name]
        scores = caption_scores(
            [candidates[row] for row in rows], [references[row] for row in rows]
        )
        found |= {f"{metric}/{name}": scores[metric] for metric in ("cider", "bleu@4")}
    return found


def _groups(config: TaskConfig, samples: Sequence[Sample]) -> list[str]:
    """Return the group of each sample; empty if no grouping is configured."""
    if not config.groups:
        return []
    without = [sample.key for sample in samples if config.groups not in sample.metadata]
    if without:
        raise DataError(
            f"{len(without)} samples of {config.data.title} have no {config.groups!r}, such as "
            f"{without[0]}; name metadata that all have in `groups`",
            reason="no_group",
        )
    return [str(sample.metadata[config.groups]) for sample in samples]


def _detail(sample: Sample, caption: str, score: float) -> dict[str, Any]:
    return {
        "key": sample.key,
        "generated": caption,
        "cider": float(score),
        "captions": list(sample.captions),
    }


def _example(sample: Sample, caption: str, score: float) -> Example:
    lines = (caption, f"person: {sample.captions[0]}", f"CIDEr {score:.2f}")
    return Example(lines, thumbnail(sample.image))

"""Captioning: the model describes each picture, people's captions say how well.

Scored as the COCO caption evaluation does it; CoCa's Table 7 reports CIDEr and BLEU-4.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from coca.core.progress import ProgressMaker, silent
from coca.data.sample import Sample
from coca.inference.predictor import Predictor
from coca.metrics.captioning import caption_scores, cider
from coca.metrics.ptb import words
from coca.model.decoding import DecodingOptions
from coca.tasks.base import TASKS, TaskConfig, TaskResult, read_samples, require_captions

SHOWN = 5
"""Captions of either end, best and worst, that a report gets."""


@TASKS.register("captioning")
def captioning(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """CIDEr, BLEU-1 to 4 and ROUGE-L against all captions of each picture.

    Chance is what the same captions score when each is given to another picture: what can be had by
    knowing the language of the captions, and nothing of the pictures. It needs two pictures.
    """
    samples, bad = read_samples(config.data, limit=config.limit)
    require_captions(samples, config)
    said = [
        caption.text
        for caption in predictor.caption(
            [sample.image for sample in samples],
            prompt=config.prompt,
            progress=progress,
            **cast(DecodingOptions, asdict(config.decoding)),
        )
    ]
    with progress("scoring captions", None):
        candidates = [words(text) for text in said]
        references = [[words(text) for text in sample.captions] for sample in samples]
        metrics = caption_scores(candidates, references)
        half = len(samples) // 2
        if half:
            # Far away: what lies next to a picture is often of the same place or kind.
            moved = caption_scores(candidates[half:] + candidates[:half], references)
            metrics |= {f"chance_{name}": value for name, value in moved.items()}
        each = cider(candidates, references)
    details = {"examples": _examples(samples, said, each), "different": len(set(said))}
    return TaskResult("captioning", metrics, len(samples), bad, details)


def _examples(
    samples: Sequence[Sample], said: Sequence[str], scores: Float[ndarray, " N"]
) -> list[dict[str, Any]]:
    """The captions that agree best with people's, best first, and then the worst."""
    order = np.argsort(-scores, kind="stable").tolist()
    shown = order if len(order) <= 2 * SHOWN else order[:SHOWN] + order[-SHOWN:]
    return [
        {
            "key": samples[row].key,
            "said": said[row],
            "cider": float(scores[row]),
            "captions": list(samples[row].captions),
        }
        for row in shown
    ]

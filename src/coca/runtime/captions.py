"""Captions with their scores, the result of both predictors."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Caption:
    """A generated caption of an image, with its scores."""

    text: str
    """The prompt and the generated text."""
    completion: str
    """The generated text without the prompt: the answer if the prompt is a question."""
    score: float
    """Log-probability of the generated tokens, in nats; at most 0, which is certainty."""
    token_ids: tuple[int, ...] = ()
    """The generated tokens, without prompt and end token."""
    log_probabilities: tuple[float, ...] = ()
    """Summands of `score`, in nats: one per token, and one for the end token if it was reached."""
    others: tuple["Caption", ...] = ()
    """The next best captions, best first, if more than one was requested."""
    rank_score: float = 0.0
    """Key by which the captions of an image are sorted. In beam search it is the score, less the
    penalties of the logits processors, divided by (number of tokens) ** `length_penalty`. For
    samples it is the score."""
    error: str = ""
    """Error message of an image that was skipped; its text is empty and its scores are NaN."""


def skipped_caption(error: Exception) -> Caption:
    """Return the caption of an image that was skipped."""
    return Caption("", "", math.nan, rank_score=math.nan, error=str(error))

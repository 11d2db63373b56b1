"""Captions as text: generated token sequences decoded, with their scores."""

from collections.abc import Sequence
from dataclasses import replace

from coca.model.generation.config import GeneratedSequence
from coca.processing.tokenizer import TextTokenizer
from coca.runtime.captions import Caption

__all__ = ["Caption", "captions_of"]


def captions_of(
    written: Sequence[GeneratedSequence], tokenizer: TextTokenizer, *, prompt: Sequence[int]
) -> Caption:
    """Decode the generated sequences of an image: the best caption, with the rest in `others`.

    Args:
        written: Generated sequences, best first; at least one.
        tokenizer: The model's tokenizer.
        prompt: Token ids of the prompt, [BOS] first.
    """
    first, *others = (_caption(one, tokenizer, prompt) for one in written)
    return replace(first, others=tuple(others))


def _caption(
    written: GeneratedSequence, tokenizer: TextTokenizer, prompt: Sequence[int]
) -> Caption:
    # Prompt and completion are decoded together, since a word may span their boundary.
    text = tokenizer.decode([*prompt[1:], *written.token_ids]).strip()
    completion = tokenizer.decode(written.token_ids).strip()
    return Caption(
        text,
        completion,
        written.total,
        tuple(written.token_ids),
        tuple(written.log_probabilities),
        rank_score=written.rank,
    )

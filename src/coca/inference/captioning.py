"""Captions as text: generated token sequences decoded, with their scores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from coca.core.errors import ConfigError
from coca.inference.inputs import as_texts
from coca.model.generation.config import GeneratedSequence
from coca.processing.tokenizer import TextTokenizer


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


def prompts_for(prompt: str | Iterable[str], count: int) -> Sequence[str]:
    """Return one prompt per image, from one text for all or one text each.

    Raises:
        ConfigError: There are more or fewer texts than images.
    """
    if isinstance(prompt, str):
        return [prompt] * count
    prompts = as_texts(prompt)
    if len(prompts) != count:
        raise ConfigError(
            f"{len(prompts)} prompts do not fit {count} images; give one for all or one each"
        )
    return prompts


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

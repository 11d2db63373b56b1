"""Captions for people: words from what a model wrote."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from coca.core.errors import ConfigError
from coca.inference.inputs import as_texts
from coca.model.generation.config import GeneratedSequence
from coca.processing.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Caption:
    """What the model says about an image."""

    text: str
    """The words behind the prompt, the prompt included."""
    completion: str
    """The words behind the prompt alone: the answer where the prompt is a question."""
    score: float
    """Natural logarithm of the probability of the words behind the prompt; 0 is certain."""
    token_ids: tuple[int, ...] = ()
    """The tokens behind the prompt, without the one that ends it."""
    log_probabilities: tuple[float, ...] = ()
    """What the score is the sum of: one for each token, and for the end where it was reached."""
    others: tuple["Caption", ...] = ()
    """The next best captions, best first, where more than one was asked for."""
    rank_score: float = 0.0
    """What the captions of an image are sorted by: of a search the score, less the penalties of
    the rules, divided by the number of tokens to the power of `length_penalty`; of samples the
    score."""


def captions_of(
    written: Sequence[GeneratedSequence], tokenizer: TextTokenizer, *, prompt: Sequence[int]
) -> Caption:
    """Gives the best caption of an image, with the others in it.

    Args:
        written: What the model wrote, best first; at least one.
        tokenizer: The model's.
        prompt: Token ids that it went on from, [BOS] first.
    """
    first, *others = (_caption(one, tokenizer, prompt) for one in written)
    return replace(first, others=tuple(others))


def prompts_for(prompt: str | Iterable[str], pictures: int) -> Sequence[str]:
    """Gives each image its prompt: one text for all, or one text each.

    Raises:
        ConfigError: There are more or fewer texts than images.
    """
    if isinstance(prompt, str):
        return [prompt] * pictures
    prompts = as_texts(prompt)
    if len(prompts) != pictures:
        raise ConfigError(
            f"{len(prompts)} prompts do not fit {pictures} images; give one for all or one each"
        )
    return prompts


def _caption(
    written: GeneratedSequence, tokenizer: TextTokenizer, prompt: Sequence[int]
) -> Caption:
    # The prompt is decoded along, since a word may be cut between two tokens.
    text = tokenizer.decode([*prompt[1:], *written.token_ids]).strip()
    said = tokenizer.decode(written.token_ids).strip()
    return Caption(
        text,
        said,
        written.total,
        tuple(written.token_ids),
        tuple(written.log_probabilities),
        rank_score=written.rank,
    )

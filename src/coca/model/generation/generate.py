"""Generate captions: images and prompts in, token ids and log-probabilities out."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from coca.core.errors import ConfigError
from coca.model.coca import CoCa
from coca.model.generation.beam_search import BeamSearch
from coca.model.generation.decoder_state import DecoderState
from coca.model.generation.decoding_rules import NO_TOKEN
from coca.model.generation.generation_config import GeneratedSequence, GenerationConfig
from coca.model.generation.logits_processors import LogitsProcessors
from coca.model.generation.sampling import sample
from coca.model.openclip.openclip_config import TextConfig
from coca.processing.word_constraint import WordConstraint


@torch.inference_mode()
def generate(
    model: CoCa,
    image_tokens: Float[Tensor, "B Q C"],
    *,
    prompts: Sequence[Sequence[int]] | None = None,
    decoding: GenerationConfig | None = None,
    constraint: WordConstraint | None = None,
    images: Sequence[int] | None = None,
    probabilities: Float[np.ndarray, "B K"] | None = None,
) -> list[list[GeneratedSequence]]:
    """Generate captions of a batch of images.

    The captions of an image do not depend on the rest of the batch.

    Args:
        model: The model.
        image_tokens: Image tokens of the decoder.
        prompts: Token ids that each caption begins with; default: [BOS].
        decoding: Decoding strategy; default: beam search.
        constraint: Words that may be generated; default: any tokens.
        images: Number of each image, which sampling mixes into the seed: `image_numbers` of its
            pixels, so that it draws the same in any batch. Default: its position in the batch.
        probabilities: Of the classes of the image encoder's own classifier, for the words of
            classes that the constraint has; only beam search uses them. Default: none.

    Returns:
        `num_return_sequences` captions of each image, best first; fewer if beam search finds
        fewer.
    """
    decoding = decoding or GenerationConfig()
    text = model.config.text
    if prompts is None:
        prompts = [[text.bos_id]] * len(image_tokens)
    if len(prompts) != len(image_tokens):
        raise ConfigError(
            f"{len(prompts)} prompts do not fit {len(image_tokens)} images; each needs one"
        )
    if not prompts:
        return []
    device = image_tokens.device
    token_budget = torch.tensor(
        [_token_budget(prompt, text, decoding) for prompt in prompts], device=device
    )
    longest = max(map(len, prompts))
    read = [[NO_TOKEN] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    state, read_ids = DecoderState(model, image_tokens, prompts), torch.tensor(read, device=device)
    guide = None
    if constraint is not None and probabilities is not None and decoding.beams > 1:
        guide = constraint.guide(probabilities, width=len(model.vocabulary_weight))
    processors = LogitsProcessors(decoding, text, constraint, guide)
    if decoding.beams == 1:
        return sample(
            state,
            read_ids,
            processors=processors,
            decoding=decoding,
            images=range(len(prompts)) if images is None else images,
            token_budget=token_budget,
            eos_id=text.eos_id,
        )
    search = BeamSearch(
        state,
        read_ids,
        processors=processors,
        decoding=decoding,
        token_budget=token_budget,
        eos_id=text.eos_id,
    )
    return search.run()


def _token_budget(prompt: Sequence[int], text: TextConfig, decoding: GenerationConfig) -> int:
    """Compute the maximum number of new tokens after a prompt."""
    if len(prompt) == 0 or prompt[0] != text.bos_id:
        raise ConfigError(f"a prompt begins with [BOS] ({text.bos_id}), not {list(prompt)[:1]}")
    token_budget = text.max_text_tokens - (len(prompt) - 1)
    if token_budget < 1:
        raise ConfigError(
            f"a prompt of {len(prompt)} tokens leaves no room for new tokens in context_length "
            f"{text.context_length}; shorten it to {text.max_text_tokens} tokens at most"
        )
    return (
        token_budget
        if decoding.max_new_tokens is None
        else min(decoding.max_new_tokens, token_budget)
    )

"""Writing captions: images and prompts in, token ids and their log-probabilities out."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from coca.core.errors import ConfigError
from coca.model.captioner import Captioner, TextConfig
from coca.model.generation.beam_search import BeamSearch
from coca.model.generation.config import GeneratedSequence, GenerationConfig
from coca.model.generation.decoder_state import DecoderState
from coca.model.generation.logits_processors import NO_TOKEN, LogitsProcessors
from coca.model.generation.sampling import sample


@torch.inference_mode()
def generate(
    model: Captioner,
    image_tokens: Float[Tensor, "B Q C"],
    *,
    prompts: Sequence[Sequence[int]] | None = None,
    decoding: GenerationConfig | None = None,
) -> list[list[GeneratedSequence]]:
    """Writes captions of a batch of images.

    What is written for an image depends on nothing else in the batch.

    Args:
        model: In evaluation mode.
        image_tokens: As `model.image_tokens` gives them.
        prompts: Token ids that each image's captions begin with, [BOS] first; of any lengths.
            None: [BOS] alone.
        decoding: How words are chosen; None: beam search.

    Returns:
        `num_return_sequences` captions of each image, best first; fewer where a search found no
        more.

    Raises:
        ConfigError: A prompt fills the context or does not begin with [BOS], or their number is not
            that of the images.
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
    room = torch.tensor([_room(prompt, text, decoding) for prompt in prompts], device=device)
    longest = max(map(len, prompts))
    read = [[NO_TOKEN] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    drafts, read_ids = DecoderState(model, image_tokens, prompts), torch.tensor(read, device=device)
    rules = LogitsProcessors(decoding, text)
    if decoding.beams == 1:
        return sample(
            drafts, read_ids, rules=rules, decoding=decoding, room=room, eos_id=text.eos_id
        )
    search = BeamSearch(
        drafts, read_ids, rules=rules, decoding=decoding, room=room, eos_id=text.eos_id
    )
    return search.run()


def _room(prompt: Sequence[int], text: TextConfig, decoding: GenerationConfig) -> int:
    """Most words behind a prompt."""
    if len(prompt) == 0 or prompt[0] != text.bos_id:
        raise ConfigError(f"a prompt begins with [BOS] ({text.bos_id}), not {list(prompt)[:1]}")
    room = text.max_text_tokens - (len(prompt) - 1)
    if room < 1:
        raise ConfigError(
            f"a prompt of {len(prompt)} tokens leaves no room for words in context_length "
            f"{text.context_length}; shorten it to {text.max_text_tokens} tokens at most"
        )
    return room if decoding.max_new_tokens is None else min(decoding.max_new_tokens, room)

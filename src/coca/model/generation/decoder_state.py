"""Captions in the making: the model's side of decoding, one word a step and nothing twice.

The image's keys and values are computed once and shared by all of its branches, which are beams or
samples: a step puts the newest word of each branch where a caption's words would stand, so that one
attention over the image serves them all.

Dimensions: B images, K branches an image, k branches before the step, S slots of the caches,
T tokens of the longest prompt, V vocabulary.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coca.model.captioner import Captioner
from coca.model.layers.kv_cache import KeyValueCache
from coca.model.layers.prepacked_linear import linear


class DecoderState:
    """What the model knows of the captions that it is writing."""

    def __init__(
        self,
        model: Captioner,
        image_tokens: Float[Tensor, "B Q C"],
        prompts: Sequence[Sequence[int]],
    ) -> None:
        """Reads images and prompts.

        Args:
            model: In evaluation mode.
            image_tokens: As `model.image_tokens` gives them.
            prompts: Token ids that each image's captions begin with, [BOS] first.
        """
        text, device = model.config.text, image_tokens.device
        self._model = model
        # Read once a word, so it pays to lay them out in the order of reading.
        self._image = [
            (keys.contiguous(), values.contiguous())
            for keys, values in model.multimodal_decoder.read_image(image_tokens)
        ]
        self._lower = [KeyValueCache() for _ in range(text.unimodal_layers)]
        self._upper = [KeyValueCache() for _ in range(text.multimodal_layers)]
        lengths = [len(prompt) for prompt in prompts]
        tokens = torch.tensor(
            [[*prompt, *[text.pad_id] * (max(lengths) - len(prompt))] for prompt in prompts],
            device=device,
        )
        states = model.unimodal_decoder(tokens, caches=self._lower)
        states = model.multimodal_decoder(states, self._image, caches=self._upper)
        self._places = torch.tensor(lengths, device=device)[:, None]
        # Pads stand behind a shorter prompt: its own tokens never see them, later words must not.
        own = torch.arange(max(lengths), device=device) < self._places
        self._seen = None if bool(own.all()) else own[:, None]
        rows = torch.arange(len(states), device=device)
        last = states[rows, self._places[:, 0] - 1]
        self.logits = self._read_off(last[:, None])

    logits: Float[Tensor, "B K V"]
    """Of the word that follows each branch, in fp32; the caller may change them in place."""

    def extend(self, words: Int[Tensor, "B K"], parents: Int[Tensor, "B K"] | None = None) -> None:
        """Adds a word to each branch and gives `logits` for the next.

        Args:
            words: The new words.
            parents: The branch of the step before that each word follows; None: its own.
        """
        self._look_back(words, parents)
        # An image that is done may go on past the end until it is dropped.
        places = self._places.clamp(max=self._model.config.text.context_length - 1)
        states = self._model.unimodal_decoder(
            words, caches=self._lower, positions=places.expand(words.shape)
        )
        states = self._model.multimodal_decoder(states, self._image, caches=self._upper)
        self._places = self._places + 1
        self.logits = self._read_off(states)

    def keep(self, rows: Int[Tensor, " b"]) -> None:
        """Drops all images but `rows`, in their order; to be followed by `extend`."""
        self._image = [(keys[rows], values[rows]) for keys, values in self._image]
        for cache in (*self._lower, *self._upper):
            cache.keep(rows)
        self._places = self._places[rows]
        if self._seen is not None:
            self._seen = self._seen[rows]

    def _look_back(self, words: Int[Tensor, "B K"], parents: Int[Tensor, "B k"] | None) -> None:
        """Tells the caches which slots the new words see: those of their parents and their own."""
        batch, branches = words.shape
        if self._seen is None and branches == 1:
            return
        slots = self._lower[0].length
        seen = self._seen
        if seen is None:
            seen = torch.ones(batch, 1, slots, dtype=torch.bool, device=words.device)
        if parents is not None:
            seen = seen.gather(1, parents[:, :, None].expand(-1, -1, slots))
        own = torch.eye(branches, dtype=torch.bool, device=words.device)
        self._seen = torch.cat([seen, own.expand(batch, -1, -1)], dim=2)
        hidden = torch.zeros(
            self._seen.shape, dtype=self._model.log_scale.dtype, device=words.device
        ).masked_fill_(~self._seen, -torch.inf)[:, None]
        for cache in (*self._lower, *self._upper):
            cache.visible = hidden

    def _read_off(self, states: Float[Tensor, "B K D"]) -> Float[Tensor, "B K V"]:
        return linear(states, self._model.vocabulary_weight).float()


def should_compact(going: Bool[Tensor, " B"]) -> bool:
    """Whether so many images are done that it pays to drop them.

    To drop some means to copy all that is known of the others, so it waits until a quarter is done.
    """
    return 4 * int(going.sum()) <= 3 * len(going)

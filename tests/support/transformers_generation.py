"""The generation of `transformers` around one of our models, as a reference for decoding."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from coca.model.coca import CoCa


class _Peer(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """No cache: every step computes the logits of the whole caption again."""

    config_class = PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, model: CoCa) -> None:
        super().__init__(PretrainedConfig())
        self.captioner = model

    def forward(self, input_ids: Tensor, image_tokens: Tensor, **_: Any) -> CausalLMOutput:
        decoder = self.captioner.multimodal_decoder
        states = decoder(
            self.captioner.unimodal_decoder(input_ids), decoder.read_image(image_tokens)
        )
        return CausalLMOutput(logits=F.linear(states, self.captioner.vocabulary_weight))

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, image_tokens: Tensor, **_: Any
    ) -> dict[str, Any]:
        return {"input_ids": input_ids, "image_tokens": image_tokens}


def peer_captions(
    model: CoCa,
    image_tokens: Tensor,
    *,
    prompt: Sequence[int],
    max_new_tokens: int,
    num_beams: int = 1,
    num_return_sequences: int = 1,
    **options: Any,
) -> list[list[tuple[list[int], float]]]:
    """Token ids behind the prompt, [EOS] included, and the rank of each caption an image."""
    text = model.config.text
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        num_return_sequences=num_return_sequences,
        do_sample=False,
        use_cache=False,
        bos_token_id=text.bos_id,
        eos_token_id=text.eos_id,
        pad_token_id=text.pad_id,
        suppress_tokens=list(text.suppress_tokens),
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    ids = torch.tensor([list(prompt)] * len(image_tokens))
    with torch.no_grad():
        peer = _Peer(model).eval()  # type: ignore[no-untyped-call]
        out = peer.generate(ids, generation_config=config, image_tokens=image_tokens)
    ranks = out.sequences_scores.tolist() if num_beams > 1 else [0.0] * len(out.sequences)
    captions = []
    for row, rank in zip(out.sequences[:, len(prompt) :].tolist(), ranks, strict=True):
        end = row.index(text.eos_id) + 1 if text.eos_id in row else len(row)
        captions.append((row[:end], rank))
    return [
        captions[at : at + num_return_sequences]
        for at in range(0, len(captions), num_return_sequences)
    ]

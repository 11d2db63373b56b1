"""The exported graphs, run by torch: the decoding of the runtime is tested without ONNX Runtime."""

from collections.abc import Sequence
from typing import Any

import torch
from numpy import ndarray

from coca.model.captioner import Captioner
from coca.processing.processor import Processor
from coca.release.onnx.graphs import Cross, DecoderStep
from coca.release.onnx.onnx_export import text_settings
from coca.runtime.decoder import Decoder
from coca.runtime.files import Manifest
from coca.runtime.preprocess import TextSettings


class TorchSession:
    """A graph with the interface of an ONNX session."""

    def __init__(self, module: Cross | DecoderStep) -> None:
        self.module = module

    @torch.no_grad()
    def run(self, output_names: Sequence[str] | None, inputs: dict[str, ndarray]) -> list[Any]:
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        if isinstance(self.module, Cross):
            return [part.numpy() for part in self.module(tensors["image_tokens"])]
        logits, caches = self.module(
            tensors["input_ids"],
            tensors["position_ids"],
            tensors["attention_mask"],
            [part for name, part in tensors.items() if name.startswith("cross")],
            [part for name, part in tensors.items() if name.startswith("past")],
        )
        return [logits.numpy(), *(part.numpy() for part in caches)]


def torch_decoder(model: Captioner, *, heads: int, head_size: int) -> Decoder:
    text = model.config.text
    manifest = Manifest(
        version=1,
        fingerprint="",
        source="",
        precision="fp32",
        opset=0,
        embed_dim=model.config.embed_dim,
        logit_scale=1.0,
        unimodal_layers=text.unimodal_layers,
        multimodal_layers=text.multimodal_layers,
        heads=heads,
        head_size=head_size,
        files={},
        gates={},
    )
    cross, step = TorchSession(Cross(model)), TorchSession(DecoderStep(model))
    return Decoder(cross, step, manifest)


def settings(model: Captioner, processor: Processor) -> TextSettings:
    return text_settings(model.config.text, processor)

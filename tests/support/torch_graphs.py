"""The exported graphs, run by torch: the decoding of the runtime is tested without ONNX Runtime."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from numpy import ndarray
from torch import nn

from coca.model.coca import CoCa
from coca.predict.manifest import TOKENIZER_FILE, Manifest
from coca.predict.onnx_decoder import OnnxDecoder
from coca.predict.onnx_predictor import OnnxPredictor
from coca.predict.torch_predictor import TorchPredictor
from coca.processing.caption_words import CAPTION_WORDS_FILE
from coca.processing.preprocess import TextSettings
from coca.processing.processor import Processor
from coca.release.onnx.graphs import Cross, DecoderStep, Text, Vision, graphs_of
from coca.release.onnx.onnx_export import text_settings


class TorchSession:
    """A graph with the interface of an ONNX session."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @torch.no_grad()
    def run(self, output_names: Sequence[str] | None, inputs: dict[str, ndarray]) -> list[Any]:
        tensors = {name: torch.tensor(array) for name, array in inputs.items()}
        if isinstance(self.module, Vision):
            names = ("image_embeds", "image_tokens", "class_probabilities")
            outputs = dict(zip(names, self.module(tensors["pixels"]), strict=False))
            return [outputs[name].numpy() for name in output_names or ()]
        if isinstance(self.module, Text):
            return [self.module(tensors["input_ids"]).numpy()]
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


def torch_decoder(model: CoCa, *, heads: int, head_size: int) -> OnnxDecoder:
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
    return OnnxDecoder(cross, step, manifest)


def settings(model: CoCa, processor: Processor) -> TextSettings:
    return text_settings(model.config.text, processor)


def exported(predictor: TorchPredictor, folder: Path) -> OnnxPredictor:
    """The exported form of a model; torch runs its graphs in place of ONNX Runtime."""
    model, processor = predictor.model, predictor.processor
    graphs = {graph.name: graph for graph in graphs_of(predictor)}
    _, heads, _, size = graphs["decoder"].inputs["past"][0].shape
    processor.tokenizer.save(folder / TOKENIZER_FILE)
    if processor.caption_words is not None:
        processor.caption_words.save(folder / CAPTION_WORDS_FILE)
    manifest = replace(
        torch_decoder(model, heads=heads, head_size=size).manifest,
        fingerprint=predictor.fingerprint,
        logit_scale=predictor.logit_scale,
    )
    sessions = {f"{name}.onnx": TorchSession(graph.module) for name, graph in graphs.items()}
    runtime = ModuleType("onnxruntime")
    vars(runtime).update(
        SessionOptions=SimpleNamespace,
        InferenceSession=lambda path, *options, **others: sessions[Path(path).name],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", runtime)
        return OnnxPredictor(
            folder,
            manifest,
            processor.image_config.settings(resampler="pillow"),
            settings(model, processor),
            batch_size=predictor.batch_size,
            threads=None,
        )

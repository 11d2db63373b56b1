"""The four graphs of an exported model, as torch modules, and their translation to ONNX.

    vision    pixels -> image_embeds, image_tokens, and class_probabilities for words of classes
    text      input_ids -> text_embeds
    cross     image tokens -> keys and values of each cross-attention layer
    decoder   one step: input_ids, masks, caches -> logits, caches

Keys and values of the image have a graph of their own. So a search does not pay for captions, and
the decoder reads them as inputs that are computed once per image.

Dimensions: B batch, S side of an image (pixels), T text tokens, L new tokens, P cached tokens,
A attended tokens (P + L), Q image tokens, C their width, E embedding, H heads, d size of a head,
V vocabulary.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from coca.core.extras import require
from coca.model.class_coca import ClassCoCa
from coca.model.coca import CoCa
from coca.model.layers.transformer import KeysAndValues
from coca.predict.image_text_predictor import ImageTextPredictor
from coca.predict.manifest import cache_names, cross_names
from coca.predict.torch_predictor import TorchPredictor
from coca.predict.tower import TowerPredictor
from coca.processing.image import ImageConfig
from coca.processing.preprocess import ImageSettings

OPSET = 20
"""Version of the ONNX operators."""
FOLDED = 64
"""Maximum number of values of a constant that is folded where weights are kept."""
BATCH = torch.export.Dim("batch", min=1, max=4096)
"""The batch size, which is dynamic."""
PROBES = ("a photo of a dog", "two people on a beach at sunset, Red car 1965")
"""Texts with which the graphs of other libraries' models are traced."""


class Pixels(nn.Module):
    """A module that normalizes the pixels of images."""

    pixel_mean: Tensor
    pixel_scale: Tensor

    def __init__(self, image: ImageConfig | ImageSettings) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(image.mean).view(3, 1, 1) * 255)
        self.register_buffer("pixel_scale", 1 / (torch.tensor(image.std).view(3, 1, 1) * 255))

    def normalized(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        return (pixels.float() - self.pixel_mean) * self.pixel_scale


class Vision(Pixels):
    """Embedding and image tokens of images, and the probabilities of their classes."""

    def __init__(self, model: CoCa, image: ImageConfig, *, with_classes: bool = False) -> None:
        super().__init__(image)
        self.model, self.with_classes = model, with_classes
        if isinstance(model, ClassCoCa) and model.class_tokens is not None:
            model.class_tokens.fold_(model.unimodal_decoder.token_embedding)

    def forward(self, pixels: UInt8[Tensor, "B 3 S S"]) -> tuple[Tensor | None, ...]:
        encoded = self.model.encode(self.normalized(pixels))
        outputs = self.model.pool(encoded)
        return (*outputs, encoded.probabilities) if self.with_classes else outputs


class Text(nn.Module):
    """Embedding of captions."""

    def __init__(self, model: CoCa) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Int64[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        return self.model.encode_text(input_ids, padded=True)


class TowerVision(Pixels):
    """Embedding of images by a model of another library, and the tokens for a decoder on it."""

    def __init__(self, tower: ImageTextPredictor, captioner: CoCa | None) -> None:
        super().__init__(tower.image_settings)
        self.tower, self.model, self.captioner = tower, tower.model, captioner

    def forward(
        self, pixels: UInt8[Tensor, "B 3 S S"]
    ) -> Float[Tensor, "B E"] | tuple[Float[Tensor, "B E"], Float[Tensor, "B Q C"]]:
        images = self.normalized(pixels)
        embeds = nn.functional.normalize(self.tower.image_features(images), dim=-1)
        return embeds if self.captioner is None else (embeds, self.captioner.image_tokens(images))


class TowerTextGraph(nn.Module):
    """Embedding of padded token ids by a model of another library."""

    def __init__(self, tower: ImageTextPredictor) -> None:
        super().__init__()
        self.tower, self.model = tower, tower.model

    def forward(self, input_ids: Tensor) -> Float[Tensor, "B E"]:
        return nn.functional.normalize(self.tower.text_features(input_ids.long()), dim=-1)


class Cross(nn.Module):
    """Keys and values of the image for each cross-attention layer."""

    def __init__(self, model: CoCa) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_tokens: Float[Tensor, "B Q C"]) -> list[Float[Tensor, "B H Q d"]]:
        pairs = self.model.multimodal_decoder.read_image(image_tokens)
        return [tensor.contiguous() for pair in pairs for tensor in pair]


@dataclass
class _GrowingCache:
    """KV cache of one layer: attends over cached and new tokens, and keeps both."""

    keys: Float[Tensor, "B H P d"]
    values: Float[Tensor, "B H P d"]
    mask: Bool[Tensor, "B 1 L A"]

    def attend(
        self,
        queries: Float[Tensor, "B H L d"],
        keys: Float[Tensor, "B H L d"],
        values: Float[Tensor, "B H L d"],
    ) -> Float[Tensor, "B H L d"]:
        self.keys = torch.cat([self.keys, keys], dim=2)
        self.values = torch.cat([self.values, values], dim=2)
        return nn.functional.scaled_dot_product_attention(
            queries, self.keys, self.values, attn_mask=self.mask
        )


class DecoderStep(nn.Module):
    """One step of the text decoder, for a prompt or for the newest token of each branch.

    The tokens of a row may belong to several branches of one image; the mask separates them.
    """

    def __init__(self, model: CoCa) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Int64[Tensor, "B L"],
        position_ids: Int64[Tensor, "B L"],
        attention_mask: Bool[Tensor, "B L A"],
        cross: Sequence[Float[Tensor, "B H Q d"]],
        past: Sequence[Float[Tensor, "B H P d"]],
    ) -> tuple[Float[Tensor, "B L V"], list[Float[Tensor, "B H A d"]]]:
        text, mask = self.model.config.text, attention_mask[:, None]
        caches = [_GrowingCache(*pair, mask) for pair in _pairs(past)]
        lower = text.unimodal_layers
        states = self.model.unimodal_decoder(
            input_ids, caches=caches[:lower], positions=position_ids
        )
        states = self.model.multimodal_decoder(states, _pairs(cross), caches=caches[lower:])
        logits = nn.functional.linear(states, self.model.vocabulary_weight)
        return logits, [tensor for cache in caches for tensor in (cache.keys, cache.values)]


@dataclass(frozen=True)
class Graph:
    """One graph with example inputs; `axes` names the dynamic axes of each input."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor | list[Tensor]]
    axes: Mapping[str, Any]
    input_names: Sequence[str]
    output_names: Sequence[str]


def tower_of(predictor: TorchPredictor | ImageTextPredictor) -> ImageTextPredictor | None:
    """Return the model of another library whose embeddings a model has, if there is one."""
    if isinstance(predictor, TowerPredictor):
        return predictor.tower
    return predictor if isinstance(predictor, ImageTextPredictor) else None


def graphs_of(predictor: TorchPredictor | ImageTextPredictor) -> Iterator[Graph]:
    """Yield the graphs of a model in evaluation mode, with plain fp32 weights on the CPU.

    An image-text model without a decoder has `vision` and `text` only.
    """
    tower = tower_of(predictor)
    captioner = predictor.model if isinstance(predictor, TorchPredictor) else None
    side = predictor.image_settings.image_size
    pixels = {"pixels": torch.zeros(2, 3, side, side, dtype=torch.uint8)}
    outputs = ["image_embeds", *["image_tokens"] * (captioner is not None)]
    if tower is not None:
        vision: nn.Module = TowerVision(tower, captioner)
        text: nn.Module = TowerTextGraph(tower)
        ids = tower.tokenize(PROBES)
        length = None if tower.pads_to_context else tower.context_length
    else:
        assert isinstance(predictor, TorchPredictor)
        model, processor = predictor.model, predictor.processor
        with_classes = bool(processor.class_nouns)
        vision = Vision(model, processor.image_config, with_classes=with_classes)
        outputs += ["class_probabilities"] * with_classes
        text, ids = Text(model), _captions(model)
        length = model.config.text.context_length
    axes = {0: BATCH}
    if length is not None:
        axes[1] = torch.export.Dim("length", min=2, max=length)
    yield Graph("vision", vision, pixels, {"pixels": {0: BATCH}}, [*pixels], outputs)
    yield Graph(
        "text", text, {"input_ids": ids}, {"input_ids": axes}, ["input_ids"], ["text_embeds"]
    )
    if captioner is not None:
        with torch.no_grad():
            tokens = captioner.image_tokens(torch.zeros(2, 3, side, side))
        yield Graph(
            "cross",
            Cross(captioner),
            {"image_tokens": tokens},
            {"image_tokens": {0: BATCH}},
            ["image_tokens"],
            cross_names(captioner.config.text.multimodal_layers),
        )
        yield _decoder_graph(captioner, tokens)


def _captions(model: CoCa) -> Int64[Tensor, "B T"]:
    """Return token ids of two captions, in the layout of the model."""
    text = model.config.text
    ids = torch.full((2, min(8, text.context_length)), text.pad_id)
    ids[:, 0], ids[:, 2] = text.bos_id, text.eos_id
    ids[:, 3] = getattr(text, "cls_id", text.pad_id)
    return ids


def _decoder_graph(model: CoCa, tokens: Tensor) -> Graph:
    text = model.config.text
    with torch.no_grad():
        pairs = model.multimodal_decoder.read_image(tokens)
    cross = [part for pair in pairs for part in pair]
    layers = text.unimodal_layers + text.multimodal_layers
    _, heads, _, size = cross[0].shape
    past = [torch.zeros(2, heads, 4, size) for _ in range(2 * layers)]
    new, cached = torch.export.Dim.AUTO, torch.export.Dim.AUTO
    return Graph(
        "decoder",
        DecoderStep(model),
        {
            "input_ids": torch.full((2, 3), text.bos_id),
            "position_ids": torch.arange(4, 7).expand(2, -1).contiguous(),
            "attention_mask": torch.ones(2, 3, 7, dtype=torch.bool),
            "cross": [part.contiguous() for part in cross],
            "past": past,
        },
        {
            "input_ids": {0: BATCH, 1: new},
            "position_ids": {0: BATCH, 1: new},
            "attention_mask": {0: BATCH, 1: new, 2: torch.export.Dim.AUTO},
            "cross": [{0: BATCH}] * len(cross),
            "past": [{0: BATCH, 2: cached}] * len(past),
        },
        [
            "input_ids",
            "position_ids",
            "attention_mask",
            *cross_names(text.multimodal_layers),
            *cache_names("past_key_values", layers),
        ],
        ["logits", *cache_names("present", layers)],
    )


def translate(graph: Graph, path: Path, *, optimize: bool = True) -> None:
    """Write a graph as ONNX; weights above 2 GB are in a second file next to it.

    Without `optimize`, every weight keeps its values and its name; ONNX Runtime folds them.
    """
    optimizer = require("onnxscript.optimizer", extra="onnx")
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph.module.eval(),
            kwargs=dict(graph.inputs),
            dynamic_shapes=dict(graph.axes),
            input_names=list(graph.input_names),
            output_names=list(graph.output_names),
            opset_version=OPSET,
            dynamo=True,
            optimize=optimize,
            verbose=False,
        )
        assert program is not None
        if not optimize:
            # Small constants only. With those of the exporter unfolded, ONNX Runtime does not
            # fuse convolutions, and takes four times as long.
            optimizer.fold_constants(
                program.model,
                input_size_limit=FOLDED,
                output_size_limit=FOLDED,
                should_fold=lambda node: False if node.op_type == "Transpose" else None,
            )
            optimizer.remove_unused_nodes(program.model)
        for node in program.model.graph.all_nodes():
            # Stack traces of this machine.
            node.metadata_props.clear()
        program.save(path)


def _pairs(tensors: Sequence[Tensor]) -> list[KeysAndValues]:
    """Return the keys and values of each layer from a flat list."""
    return list(zip(tensors[::2], tensors[1::2], strict=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's notes on its own internals."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

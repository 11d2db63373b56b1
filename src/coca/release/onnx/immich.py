"""Export to the folder layout of immich's machine learning service, for its OpenCLIP models.

    config.json                   sizes of the model
    visual/model.onnx             image -> embedding; visual/preprocess_cfg.json
    textual/model.onnx            text -> embedding; tokenizer.json, tokenizer_config.json

The service resizes and normalizes images itself. It pads texts to the context length, and adds
special tokens by the post-processor of `tokenizer.json`.

Dimensions: B batch, S side of an image (pixels), T text tokens, E embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from jaxtyping import Float, Float32, Int32
from tokenizers import normalizers, processors
from torch import Tensor, nn

from coca.core.errors import ConfigError, ModelError
from coca.core.extras import require
from coca.core.files.atomic import atomic_folder, read_json, write_json
from coca.inference.predictor import Predictor
from coca.model.captioner import Captioner
from coca.processing.tokenizer import TextTokenizer
from coca.release.onnx.gates import BATCHES, MIN_COSINE
from coca.release.onnx.graphs import Graph, load_for_export, translate
from coca.release.onnx.onnx_export import gate_images, text_settings
from coca.runtime.preprocess import TextSettings

# Tokenizer files for other libraries, whose tokenizers add the special tokens by themselves.


def write_tokenizer(
    folder: Path, tokenizer: TextTokenizer, layout: TextSettings, **settings: Any
) -> None:
    """Write `tokenizer.json` with a post-processor, and `tokenizer_config.json`."""
    path = folder / "tokenizer.json"
    tokenizer.save(path)
    backend = tokenizers.Tokenizer.from_file(str(path))
    if layout.cleaning == "clip":
        # Without ftfy, which repairs broken Unicode, and without HTML entities.
        space = tokenizers.Regex(r"\s+")
        steps = [normalizers.NFC(), normalizers.Replace(space, " "), normalizers.Lowercase()]
        backend.normalizer = normalizers.Sequence(steps)
    ids = (layout.bos_id, *layout.suffix)
    first, *last = map(backend.id_to_token, ids)
    backend.post_processor = processors.TemplateProcessing(
        single=[first, "$A", *last], special_tokens=[(backend.id_to_token(id), id) for id in ids]
    )
    backend.save(str(path))
    config = {
        "pad_token": backend.id_to_token(layout.pad_id),
        "bos_token": backend.id_to_token(layout.bos_id),
        "eos_token": backend.id_to_token(layout.eos_id),
        "model_max_length": layout.context_length,
        **settings,
    }
    write_json(folder / "tokenizer_config.json", config)


RESIZES = ("shortest", "squash")
"""Resizing methods that the service knows."""

DRAWN = 32
"""Number of drawn images; cosines need no more, unlike a recall."""

SENTENCES = ("a photo of a dog", "two people on a beach at sunset", "Red car, 1965")
"""Texts of the comparison, besides plain captions of the images."""


@dataclass(frozen=True, kw_only=True)
class ImmichResult:
    """Differences of the exported files from torch."""

    images: int
    """Number of images; their captions are among the texts."""
    min_image_cosine: float
    """Lowest cosine of an image's embedding to torch's, for equal pixels."""
    min_text_cosine: float
    """Lowest cosine of a text's embedding to torch's, with the tokenizer of the folder."""
    trims: bool
    """Whether the model crops empty borders and keeps the aspect ratio, which the service does
    not."""


class Visual(nn.Module):
    """Embedding of normalized images."""

    def __init__(self, model: Captioner) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B E"]:
        """Compute unit-norm embeddings."""
        return self.model.encode_image(image)


class Textual(nn.Module):
    """Embedding of padded token ids."""

    def __init__(self, model: Captioner) -> None:
        super().__init__()
        self.model = model

    def forward(self, text: Int32[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        """Compute unit-norm embeddings."""
        return self.model.encode_text(text.long(), padded=True)


def export_immich(
    model: str | Path, out: str | Path, *, images: Path | None = None
) -> ImmichResult:
    """Export the embeddings of a model in immich's layout, compared with torch before.

    Args:
        model: Any name that `coca.load` accepts.
        out: Output folder; an existing one is replaced.
        images: Folder of images for the comparison; default: 32 drawn images.
    """
    predictor = load_for_export(model)
    resize = predictor.processor.image_config.resize
    if resize not in RESIZES:
        raise ConfigError(
            f"immich resizes images by one of {', '.join(RESIZES)}, and {model} needs {resize!r}"
        )
    compared = gate_images(images, drawn=DRAWN)
    with atomic_folder(out) as unfinished:
        _write(unfinished, predictor)
        result = _measure(unfinished, predictor, compared)
        faults = [
            f"{name} must be at least {MIN_COSINE}, got {value:.6f}"
            for name in ("min_image_cosine", "min_text_cosine")
            if (value := getattr(result, name)) < MIN_COSINE
        ]
        if faults:
            raise ModelError(f"nothing was written, since the files differ: {'; '.join(faults)}")
    return result


def _write(folder: Path, predictor: Predictor) -> None:
    config, model = predictor.processor.image_config, predictor.model
    layout = text_settings(model.config.text, predictor.processor)
    (folder / "visual").mkdir()
    (folder / "textual").mkdir()
    batch = torch.export.Dim("batch", min=1, max=4096)
    side = config.image_size
    graphs = (
        Graph(
            "visual",
            Visual(model),
            {"image": torch.zeros(2, 3, side, side)},
            {"image": {0: batch}},
            ["image"],
            ["image_embeds"],
        ),
        Graph(
            "textual",
            Textual(model),
            {"text": torch.from_numpy(_example(layout))},
            {"text": {0: batch}},
            ["text"],
            ["text_embeds"],
        ),
    )
    for graph in graphs:
        translate(graph, folder / graph.name / "model.onnx")
    preprocess = {
        "size": [side, side],
        "mode": "RGB",
        "mean": config.mean,
        "std": config.std,
        "interpolation": config.interpolation,
        "resize_mode": config.resize,
        "fill_color": 0,
    }
    write_json(folder / "visual" / "preprocess_cfg.json", preprocess)
    write_tokenizer(folder / "textual", predictor.processor.tokenizer, layout)
    sizes = {
        "embed_dim": predictor.embed_dim,
        # The service ignores it; `coca.runtime.load` reads it.
        "logit_scale": predictor.logit_scale,
        "vision_cfg": {"image_size": side},
        "text_cfg": {
            "context_length": layout.context_length,
            "vocab_size": model.config.text.vocab_size,
        },
    }
    write_json(folder / "config.json", sizes)


def _example(layout: TextSettings) -> Int32[np.ndarray, "B T"]:
    ids = np.full((2, layout.context_length), layout.pad_id, np.int32)
    ids[:, 0], ids[:, 2 : 2 + len(layout.suffix)] = layout.bos_id, layout.suffix
    return ids


def _measure(folder: Path, predictor: Predictor, images: Sequence[Any]) -> ImmichResult:
    runtime = require("onnxruntime", extra="onnx")
    visual, textual = (
        runtime.InferenceSession(
            str(folder / name / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        for name in ("visual", "textual")
    )
    squares = [predictor.prepare_image(image) for image in images]
    pixels = predictor.processor.image.normalize(torch.from_numpy(np.stack(squares))).numpy()
    captions = [caption.text for caption in predictor.caption(images, num_beams=1)]
    # Others would be repaired by ftfy, which the service lacks.
    texts = [text for text in captions if text.isascii() and text.isprintable() and "&" not in text]
    texts += SENTENCES
    length = read_json(folder / "config.json")["text_cfg"]["context_length"]
    settings = read_json(folder / "textual" / "tokenizer_config.json")
    backend = tokenizers.Tokenizer.from_file(str(folder / "textual" / "tokenizer.json"))
    pad = settings["pad_token"]
    backend.enable_padding(length=length, pad_token=pad, pad_id=backend.token_to_id(pad))
    backend.enable_truncation(max_length=length)
    ids = np.array([one.ids for one in backend.encode_batch(texts)], np.int32)
    expected = predictor.embed_prepared(squares), predictor.embed_texts(texts)
    return ImmichResult(
        images=len(images),
        min_image_cosine=_min_cosine(visual, "image", pixels, expected[0]),
        min_text_cosine=_min_cosine(textual, "text", ids, expected[1]),
        trims=predictor.processor.image_config.trim,
    )


def _min_cosine(
    session: Any, name: str, inputs: np.ndarray, expected: Float32[np.ndarray, "N E"]
) -> float:
    """Compute the lowest cosine over all batch sizes."""
    lowest = 1.0
    for size in BATCHES:
        parts = [inputs[start : start + size] for start in range(0, len(inputs), size)]
        found = np.concatenate([session.run(None, {name: part})[0] for part in parts])
        lowest = min(lowest, float((found.astype(np.float64) * expected).sum(axis=1).min()))
    return lowest

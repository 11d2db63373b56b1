"""Export to the folder layout of immich's machine learning service, which `model` describes.

The service resizes and normalizes images itself. It pads texts to the context length, and adds
special tokens by the post-processor of `tokenizer.json`.

Dimensions: B batch, S side of an image (pixels), T text tokens, E embedding.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from jaxtyping import Int32
from tokenizers import normalizers, processors

from coca.core.errors import ConfigError, UnsupportedError
from coca.core.files.atomic import atomic_folder, write_json
from coca.core.progress import ProgressMaker, silent
from coca.experimental.immich.model import ImmichPredictor
from coca.inference.image_text_predictor import ImageTextPredictor
from coca.inference.predictor import Predictor
from coca.processing.tokenizer import TextTokenizer
from coca.release.onnx.gates import check_embeddings, measure_embeddings
from coca.release.onnx.graphs import BATCH, Graph, translate
from coca.release.onnx.onnx_export import DRAWN_FOR_COSINES, gate_images, text_settings
from coca.release.onnx.tower_export import (
    PROBES,
    Embedding,
    load_for_export,
    tower_images,
    tower_of,
    tower_texts,
    write_tower_tokenizer,
)
from coca.runtime.preprocess import TextSettings, TowerTokens

# Tokenizer files for other libraries, whose tokenizers add the special tokens by themselves.


def write_tokenizer(
    folder: Path, tokenizer: TextTokenizer, layout: TextSettings, **settings: Any
) -> None:
    """Write `tokenizer.json` with a post-processor, and `tokenizer_config.json`."""
    path = folder / "tokenizer.json"
    tokenizer.save(path)
    backend = tokenizers.Tokenizer.from_file(str(path))
    if layout.cleaning == "clip":
        backend.normalizer = _lower_case()
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


def _lower_case() -> normalizers.Normalizer:
    """Clean texts as CLIP, without ftfy, which repairs broken Unicode, and HTML entities."""
    space = tokenizers.Regex(r"\s+")
    steps = [normalizers.NFC(), normalizers.Replace(space, " "), normalizers.Lowercase()]
    return normalizers.Sequence(steps)


RESIZES = ("shortest", "squash")
"""Resizing methods that the service knows."""

SENTENCES = (
    "",
    "a photo of a dog",
    "two people on a beach at sunset",
    "Red car, 1965",
    "A MAN with an umbrella",
    " ".join(["word"] * 90),
)
"""Texts of the comparison; others would be repaired by ftfy, which the service lacks."""


def export_immich(
    model: str, out: Path, *, options: Mapping[str, str], progress: ProgressMaker = silent
) -> Mapping[str, Any]:
    """Export the embeddings of a model in immich's layout, compared with torch before.

    The only option is `images`, a folder of images to compare on; default: drawn images.
    """
    if unknown := sorted(options.keys() - {"images"}):
        raise ConfigError(f"--format immich has the option images, got {', '.join(unknown)}")
    images = Path(options["images"]) if "images" in options else None
    predictor = load_for_export(model)
    tower = tower_of(predictor)
    # Without rounding down, a crop of transformers may differ by a pixel.
    resize = predictor.image_settings.resize.removesuffix("_floor")
    if resize not in RESIZES:
        raise ConfigError(
            f"immich resizes images by one of {', '.join(RESIZES)}, and {model} needs {resize!r}"
        )
    compared = gate_images(images, drawn=DRAWN_FOR_COSINES)
    source = "drawn images" if images is None else str(images)
    with atomic_folder(out) as unfinished:
        _write(unfinished, predictor, resize)
        result = measure_embeddings(
            ImmichPredictor(unfinished),
            tower or predictor,
            compared,
            image_source=source,
            texts=SENTENCES,
        )
        check_embeddings(result, "fp32")
    # The service does not crop empty borders, so vectors of such images differ.
    return {**asdict(result), "trims": predictor.image_settings.trim}


def _write(folder: Path, predictor: Predictor | ImageTextPredictor, resize: str) -> None:
    visual, textual = folder / "visual", folder / "textual"
    visual.mkdir()
    textual.mkdir()
    tower, image = tower_of(predictor), predictor.image_settings
    if tower is None:
        assert isinstance(predictor, Predictor)
        layout = text_settings(predictor.model.config.text, predictor.processor)
        write_tokenizer(textual, predictor.processor.tokenizer, layout)
        model, ids = predictor.model, _example(layout)
        images = Embedding(model, model.encode_image)
        texts = Embedding(model, lambda given: model.encode_text(given.long(), padded=True))
        text = {
            "context_length": layout.context_length,
            "vocab_size": model.config.text.vocab_size,
        }
    else:
        images, texts = tower_images(tower), tower_texts(tower)
        text, ids = _write_tower_texts(textual, tower)
    side = image.image_size
    for name, module, key, example in (
        ("visual", images, "image", torch.zeros(2, 3, side, side)),
        ("textual", texts, "text", torch.from_numpy(ids)),
    ):
        axes = {"given": {0: BATCH}}
        graph = Graph(name, module, {"given": example}, axes, [key], [f"{name}_embeds"])
        translate(graph, folder / name / "model.onnx")
    preprocess = {
        "size": [side, side],
        "mode": "RGB",
        "mean": image.mean,
        "std": image.std,
        "interpolation": image.interpolation,
        "resize_mode": resize,
        "fill_color": 0,
    }
    write_json(visual / "preprocess_cfg.json", preprocess)
    sizes = {
        "embed_dim": predictor.embed_dim,
        # The service ignores it; `ImmichPredictor` reads it.
        "logit_scale": predictor.logit_scale,
        "vision_cfg": {"image_size": side},
        "text_cfg": text,
    }
    write_json(folder / "config.json", sizes)


def _write_tower_texts(
    folder: Path, tower: ImageTextPredictor
) -> tuple[dict[str, Any], Int32[np.ndarray, "B T"]]:
    """Write the tokenizer of a model of another library.

    Returns:
        `text_cfg` of the folder, and ids of example texts.
    """
    path = folder / "tokenizer.json"
    layout = write_tower_tokenizer(tower, path)
    if layout.side == "left":
        raise UnsupportedError(
            f"immich pads texts at the end, and {tower.source} at the start; export it with "
            "--format onnx"
        )
    ids, _ = TowerTokens(path, replace(layout, padding="context")).encode(PROBES)
    backend = tokenizers.Tokenizer.from_file(str(path))
    if layout.cleaning == "clip":
        backend.normalizer = _lower_case()
    backend.save(str(path))
    length = layout.context_length
    config = {"pad_token": layout.pad_token, "model_max_length": length}
    write_json(folder / "tokenizer_config.json", config)
    text: dict[str, Any] = {"context_length": length, "vocab_size": backend.get_vocab_size()}
    if layout.cleaning == "canonicalize":
        text["tokenizer_kwargs"] = {"clean": "canonicalize"}
    return text, ids.astype(np.int32)


def _example(layout: TextSettings) -> Int32[np.ndarray, "B T"]:
    ids = np.full((2, layout.context_length), layout.pad_id, np.int32)
    ids[:, 0], ids[:, 2 : 2 + len(layout.suffix)] = layout.bos_id, layout.suffix
    return ids

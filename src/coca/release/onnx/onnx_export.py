"""Export of a model to ONNX: graphs, tokenizer, preprocessing and manifest in one folder."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from coca.core.errors import ConfigError, UnsupportedError
from coca.core.files.atomic import atomic_folder, read_json, sha256_file, write_json
from coca.core.files.formats import IMAGE_SUFFIXES
from coca.core.progress import progress_bar
from coca.model.openclip.openclip_config import TextConfig
from coca.predict.image_text_predictor import ImageTextPredictor
from coca.predict.manifest import (
    FLOAT_VISION,
    FORMAT_VERSION,
    GRAPHS,
    MANIFEST_FILE,
    PREPROCESS_FILE,
    TOKENIZER_FILE,
    TOWER_TOKENIZER_FILE,
    Manifest,
    is_exported,
)
from coca.predict.model_kinds import library_of
from coca.predict.onnx_predictor import open_exported
from coca.predict.open_weights import model_folder
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.predict.tower import load_tower
from coca.processing.caption_words import CAPTION_WORDS_FILE
from coca.processing.clip_bpe import ClipTokenizer
from coca.processing.image_file import ImageInput
from coca.processing.preprocess import TextSettings, square
from coca.processing.processor import Processor
from coca.release.onnx.gates import (
    BATCHES,
    EmbeddingResult,
    check,
    measure_captions,
    measure_embeddings,
)
from coca.release.onnx.graphs import OPSET, graphs_of, tower_of, translate
from coca.release.onnx.quantize import QUANTIZED, quantize
from coca.release.onnx.tower_tokenizer import write_tower_tokenizer

# Images for the gates of an export: those of a folder, or a small drawn set.


DRAWN = 256
"""Number of drawn images. With 32, one query that changes its result costs a recall of 0.031."""
DRAWN_FOR_COSINES = 32
"""Number of drawn images where no recall is measured."""
MAX_IMAGES = 512
"""Maximum number of images of a folder that are compared; they take some minutes."""
_SIDE_PX = 256


def gate_images(folder: Path | None, *, drawn: int = DRAWN) -> Sequence[ImageInput]:
    """Return the images of a folder and its subfolders by name, or drawn images without a folder.

    Of a folder with more than `MAX_IMAGES` images, so many at equal distances are returned.
    """
    if folder is None:
        return [_drawn(number) for number in range(drawn)]
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(found) < 8:
        raise ConfigError(
            f"--images needs a folder with at least 8 images, got {len(found)} in {folder}"
        )
    if len(found) <= MAX_IMAGES:
        return found
    return [found[number * len(found) // MAX_IMAGES] for number in range(MAX_IMAGES)]


def _drawn(number: int) -> Image.Image:
    """Draw shapes on a gradient with noise; equal for equal numbers."""
    random = np.random.default_rng(number)
    corners = random.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    size = (_SIDE_PX + 8 * (number % 5), _SIDE_PX)
    smooth = Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR)
    noise = random.normal(0, 2 * (number % 4), (size[1], size[0], 3))
    image = Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(2 + number % 4):
        x, y, width, height = (int(value) for value in random.integers(16, 144, 4))
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        box = (x, y, x + width, y + height)
        shape = int(random.integers(3))
        if shape == 0:
            draw.ellipse(box, fill=colour)
        elif shape == 1:
            draw.rectangle(box, fill=colour)
        else:
            draw.polygon([(x, y + height), (x + width, y + height), (x + width // 2, y)], colour)
    return image


CALIBRATION_IMAGES = 64
"""Number of images that give the scales of 8-bit convolutions, about."""


def load_for_export(model: str | Path) -> TorchPredictor | ImageTextPredictor:
    """Load a model on the CPU, without prepacked weights, whose layout is that of this CPU."""
    if is_exported(model) or is_exported(folder := model_folder(model)):
        raise UnsupportedError(f"{model} is an ONNX model already, and runs without torch as it is")
    library = library_of(folder)
    if library is None:
        return load_coca(folder, device="cpu", prepack=False)
    if library not in ("openclip", "transformers"):
        raise UnsupportedError(
            f"{model} is a model of {library}; models of OpenCLIP and transformers are exported"
        )
    return load_tower(folder, prepack=True)


def export_onnx(
    model: str | Path,
    out: str | Path,
    *,
    int8: bool = False,
    images: Path | None = None,
) -> EmbeddingResult:
    """Export a model to ONNX, and compare the files with torch before they are written.

    Returns:
        The measured differences, which the manifest contains as well; a `GateResult` for a model
        with a decoder.

    Raises:
        ModelError: There is no such model, or the files differ too much from torch.
        UnsupportedError: The model, or its tokenizer, runs on its own library only.
        ConfigError: The folder has fewer than 8 images.
        MissingExtraError: The extra `onnx` is not installed.
    """
    predictor = load_for_export(model)
    precision: Literal["fp32", "int8"] = "int8" if int8 else "fp32"
    has_decoder = predictor.has_decoder
    compared = gate_images(images, drawn=DRAWN if has_decoder else DRAWN_FOR_COSINES)
    source = "drawn images" if images is None else "the folder of --images"
    with atomic_folder(out) as unfinished:
        calibration = compared[:: max(1, len(compared) // CALIBRATION_IMAGES)]
        write_files(
            unfinished,
            predictor,
            precision,
            name=str(model),
            images=calibration,
        )
        exported = open_exported(unfinished, batch_size=max(BATCHES))
        result: EmbeddingResult
        if isinstance(predictor, TorchPredictor):
            result = measure_captions(exported, predictor, compared, image_source=source)
        else:
            result = measure_embeddings(exported, predictor, compared, image_source=source)
        check(result, precision)
        manifest = read_json(unfinished / MANIFEST_FILE)
        write_json(unfinished / MANIFEST_FILE, {**manifest, "gates": asdict(result)})
    return result


def write_files(
    folder: Path,
    predictor: TorchPredictor | ImageTextPredictor,
    precision: Literal["fp32", "int8"],
    *,
    name: str,
    images: Sequence[ImageInput] = (),
    optimize: bool = True,
) -> None:
    """Write all files of an exported model, with a manifest without gates.

    Without `optimize`, graphs keep all weights as they are.
    """
    tower, settings = tower_of(predictor), predictor.image_settings
    if isinstance(predictor, TorchPredictor) and tower is None:
        settings = predictor.processor.image_config.settings(resampler="pillow")
    # Of the encoders of other libraries, convolutions stay in fp32, as with torch.
    calibration = images if precision == "int8" and tower is None else ()
    pixels = [square(image, settings) for image in calibration]
    heads = size = 0
    with progress_bar("translating graphs", len(GRAPHS) if predictor.has_decoder else 2) as bar:
        for graph in graphs_of(predictor):
            translate(graph, folder / f"{graph.name}.onnx", optimize=optimize)
            if "past" in graph.inputs:
                _, heads, _, size = graph.inputs["past"][0].shape
            bar.advance()
    for encoder in QUANTIZED if precision == "int8" else ():
        quantize(
            folder / f"{encoder}.onnx",
            pixels if encoder == "vision" else (),
            # With 8-bit convolutions, only 60 % of the captions of `everyday` are unchanged.
            float_copy=folder / f"{FLOAT_VISION}.onnx",
        )
    sections = {"image": asdict(settings)}
    layers = (0, 0)
    if isinstance(predictor, TorchPredictor):
        text, processor = predictor.model.config.text, predictor.processor
        processor.tokenizer.save(folder / TOKENIZER_FILE)
        if processor.caption_words is not None:
            processor.caption_words.save(folder / CAPTION_WORDS_FILE)
        sections["text"] = asdict(text_settings(text, processor))
        layers = (text.unimodal_layers, text.multimodal_layers)
    if tower is not None:
        sections["tower"] = asdict(write_tower_tokenizer(tower, folder / TOWER_TOKENIZER_FILE))
    write_json(folder / PREPROCESS_FILE, sections)
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    manifest = Manifest(
        version=FORMAT_VERSION,
        fingerprint=predictor.fingerprint,
        source=name,
        precision=precision,
        opset=OPSET,
        embed_dim=predictor.embed_dim,
        logit_scale=predictor.logit_scale,
        unimodal_layers=layers[0],
        multimodal_layers=layers[1],
        heads=heads,
        head_size=size,
        files=files,
        gates={},
    )
    write_json(folder / MANIFEST_FILE, asdict(manifest))


def text_settings(text: TextConfig, processor: Processor) -> TextSettings:
    """Return the text section of `preprocess.json`."""
    tokenizer, context = processor.tokenizer, processor.context_length
    empty = tokenizer.format_ids([[]], context_length=context)[0].tolist()
    suffix = tuple(empty[1 : tokenizer.reserved])
    return TextSettings(
        context_length=context,
        positions=text.context_length,
        max_text_tokens=text.max_text_tokens,
        pad_id=text.pad_id,
        bos_id=text.bos_id,
        eos_id=text.eos_id,
        suffix=suffix,
        skipped=(text.bos_id, *suffix),
        suppressed=tuple(text.suppress_tokens),
        cleaning="clip" if isinstance(tokenizer, ClipTokenizer) else "none",
    )

"""Export of a model to ONNX: graphs, tokenizer, preprocessing and manifest in one folder."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from coca.core.errors import ConfigError
from coca.core.files.atomic import atomic_folder, read_json, sha256_file, write_json
from coca.core.files.formats import IMAGE_SUFFIXES
from coca.core.progress import ProgressMaker, silent
from coca.inference.predictor import Predictor
from coca.model.captioner import TextConfig
from coca.processing.clip_bpe import ClipTokenizer
from coca.processing.processor import Processor
from coca.release.onnx.gates import GateResult, check, measure
from coca.release.onnx.graphs import OPSET, Graph, graphs_of, load_for_export, translate
from coca.release.onnx.quantize import QUANTIZED, quantize
from coca.runtime.caption_words import CAPTION_WORDS_FILE
from coca.runtime.files import (
    FLOAT_VISION,
    FORMAT_VERSION,
    GRAPHS,
    MANIFEST_FILE,
    PREPROCESS_FILE,
    TOKENIZER_FILE,
    Manifest,
)
from coca.runtime.image_file import ImageSource
from coca.runtime.preprocess import TextSettings, square

# Images for the gates of an export: those of a folder, or a small drawn set.


DRAWN = 256
"""Number of drawn images. With 32, one query that changes its result costs a recall of 0.031."""
MAX_IMAGES = 512
"""Maximum number of images of a folder that are compared; they take some minutes."""
_SIDE_PX = 256


def gate_images(folder: Path | None, *, drawn: int = DRAWN) -> Sequence[ImageSource]:
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


def export_onnx(
    model: str | Path,
    out: str | Path,
    *,
    int8: bool = False,
    images: Path | None = None,
    progress: ProgressMaker = silent,
) -> GateResult:
    """Export a model to ONNX, and compare the files with torch before they are written.

    Args:
        model: Any name that `coca.load` accepts.
        out: Output folder; an existing one is replaced.
        int8: Quantize the encoders to 8 bits: weights, and inputs of convolutions.
        images: Folder of images for the comparison, such as those that will be searched. They also
            calibrate 8-bit convolutions. Default: drawn images.
        progress: Optional progress callback.

    Returns:
        The measured differences, which the manifest contains as well.

    Raises:
        ModelError: There is no such model, or the files differ too much from torch.
        ConfigError: The folder has fewer than 8 images.
        MissingExtraError: The extra `onnx` is not installed.
    """
    predictor = load_for_export(model)
    precision: Literal["fp32", "int8"] = "int8" if int8 else "fp32"
    compared = gate_images(images)
    source = "drawn images" if images is None else "the folder of --images"
    with atomic_folder(out) as unfinished:
        calibration = compared[:: max(1, len(compared) // CALIBRATION_IMAGES)]
        write_files(
            unfinished,
            predictor,
            precision,
            name=str(model),
            images=calibration,
            progress=progress,
        )
        result = measure(unfinished, predictor, compared, image_source=source, progress=progress)
        check(result, precision)
        manifest = read_json(unfinished / MANIFEST_FILE)
        write_json(unfinished / MANIFEST_FILE, {**manifest, "gates": asdict(result)})
    return result


def write_files(
    folder: Path,
    predictor: Predictor,
    precision: Literal["fp32", "int8"],
    *,
    name: str,
    images: Sequence[ImageSource] = (),
    progress: ProgressMaker = silent,
) -> None:
    """Write all files of an exported model, with a manifest without gates.

    Args:
        folder: An empty folder.
        predictor: The model, on the CPU and without prepacked weights.
        precision: `fp32`, or `int8` for 8-bit weights in the encoders.
        name: Name of the model.
        images: Calibration images for 8-bit convolutions.
        progress: Optional progress callback.
    """
    settings = predictor.processor.image_config.settings(resampler="pillow")
    pixels = [square(image, settings) for image in (images if precision == "int8" else ())]
    decoder: Graph | None = None
    with progress("translating graphs", len(GRAPHS)) as bar:
        for graph in graphs_of(predictor.model, predictor.processor.image_config):
            translate(graph, folder / f"{graph.name}.onnx")
            decoder = graph
            bar.advance()
    assert decoder is not None
    for name in QUANTIZED if precision == "int8" else ():
        quantize(
            folder / f"{name}.onnx",
            pixels if name == "vision" else (),
            # With 8-bit convolutions, only 60 % of the captions of `everyday` are unchanged.
            float_copy=folder / f"{FLOAT_VISION}.onnx",
            progress=progress,
        )
    predictor.processor.tokenizer.save(folder / TOKENIZER_FILE)
    if predictor.processor.caption_words is not None:
        predictor.processor.caption_words.save(folder / CAPTION_WORDS_FILE)
    text = predictor.model.config.text
    sections = {"image": asdict(settings), "text": asdict(text_settings(text, predictor.processor))}
    write_json(folder / PREPROCESS_FILE, sections)
    _, heads, _, size = decoder.inputs["past"][0].shape
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    manifest = Manifest(
        version=FORMAT_VERSION,
        fingerprint=predictor.fingerprint,
        source=name,
        precision=precision,
        opset=OPSET,
        embed_dim=predictor.embed_dim,
        logit_scale=predictor.logit_scale,
        unimodal_layers=text.unimodal_layers,
        multimodal_layers=text.multimodal_layers,
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

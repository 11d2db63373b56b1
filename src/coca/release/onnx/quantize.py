"""Quantization of exported graphs to int8.

Matrix products: weights per output channel once, inputs per call (dynamic quantization). It needs
no images. Convolutions: weights per output channel, inputs with fixed scales that calibration
images give (static quantization), since ONNX Runtime has no fast dynamic kernel for them.

Dimensions: B batch, S side of an image (pixels).
"""

import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from coca.core.extras import require
from coca.core.progress import Bar, progress_bar

QUANTIZED = ("vision", "text")
"""Graphs with int8 weights. With int8 weights in the decoder, 17 % of the greedy captions of a
small model changed, which its gate does not allow."""
FLOAT_CONVOLUTIONS = 5
"""Number of first convolutions that stay in fp32, with their activations; without further
convolutions nothing is calibrated. A Vision Transformer has one, which cuts patches. The lowest
cosine to fp32 of 128 drawn images is .99 with `everyday`, and .87 if all are quantized."""
_STATIC = ["Conv", "Clip", "Relu"]
"""Convolutions with their activations, which bound what a scale has to cover. With a scale for the
values before the activations, the mean cosine to fp32 of `everyday` is .92 and not .998."""
_CALIBRATION_BATCH = 8


def quantize(
    path: Path,
    pixels: Sequence[UInt8[np.ndarray, "3 S S"]] = (),
    *,
    float_copy: Path | None = None,
) -> None:
    """Replace a graph by its int8 version."""
    quantization = require("onnxruntime.quantization", extra="onnx")
    if pixels and (kept := _float_nodes(path)) is not None:
        if float_copy is not None:
            shutil.copyfile(path, float_copy)
        with _replaced(path) as float_path, progress_bar("calibrating", len(pixels)) as bar:
            quantization.quantize_static(
                float_path,
                path,
                _Calibration(pixels, bar),
                op_types_to_quantize=_STATIC,
                nodes_to_exclude=kept,
                per_channel=True,
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
    with _replaced(path) as float_path:
        quantization.quantize_dynamic(
            float_path,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )


class _Calibration:
    """Batches of calibration images, by the interface of onnxruntime's `CalibrationDataReader`."""

    def __init__(self, pixels: Sequence[UInt8[np.ndarray, "3 S S"]], bar: Bar) -> None:
        self._bar = bar
        starts = range(0, len(pixels), _CALIBRATION_BATCH)
        self._batches = iter(
            [np.stack(pixels[start : start + _CALIBRATION_BATCH]) for start in starts]
        )

    def get_next(self) -> dict[str, Any] | None:
        """Return the inputs of the next batch; None at the end."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        self._bar.advance(len(batch))
        return {"pixels": batch}


def _float_nodes(path: Path) -> list[str] | None:
    """Return the names of the first convolutions and their activations; None if no other is."""
    onnx = require("onnx", extra="onnx")
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    if len(convolutions) <= FLOAT_CONVOLUTIONS:
        return None
    kept = convolutions[:FLOAT_CONVOLUTIONS]
    outputs = {node.output[0] for node in kept}
    readers = [node for node in nodes if node.op_type in _STATIC and node.input[0] in outputs]
    # A convolution that reads a kept one is quantized, with a scale for its input.
    activations = [node for node in readers if node.op_type != "Conv"]
    return [node.name for node in (*kept, *activations)]


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Yield the path of the graph as it was, while its replacement is written to `path`."""
    float_path = path.with_suffix(".fp32.onnx")
    path.rename(float_path)
    # It recommends a preprocessing step that the exporter has already done.
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield float_path
    finally:
        root.setLevel(level)
    float_path.unlink()

"""Files of an exported model, and their manifest.

manifest.json     version, model fingerprint, sizes, SHA-256 of each file, results of the gates
preprocess.json   resizing and token layout
tokenizer.json    vocabulary of the `tokenizers` library
tower_tokenizer.json  the same of a model of another library that embeds texts
caption_words.txt words of captions; only if the model has a list
class_words.json  nouns of the image encoder's classes; only next to a list
vision.onnx       pixels -> image_embeds, image_tokens; class_probabilities with class_words.json
vision_fp32.onnx  the same with fp32 weights, for captions; only next to 8-bit convolutions
text.onnx         input_ids -> text_embeds
cross.onnx        image_tokens -> keys and values of each cross-attention layer
decoder.onnx      one decoding step, with caches

A model without a decoder has no tokenizer.json, cross.onnx and decoder.onnx. The graphs of a
shipped model contain no weights: they read model.safetensors (`coca.release.onnx.linked_graphs`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from coca.core.errors import ModelError
from coca.core.files.atomic import read_model_json, sha256_file
from coca.model.shipped import FINGERPRINTS, is_shipped, shipped

FORMAT_VERSION = 1
MANIFEST_FILE, PREPROCESS_FILE, TOKENIZER_FILE, TOWER_TOKENIZER_FILE = (
    "manifest.json",
    "preprocess.json",
    "tokenizer.json",
    "tower_tokenizer.json",
)
GRAPHS = ("vision", "text", "cross", "decoder")
"""Names of the graphs; each is in the file NAME.onnx."""
FLOAT_VISION = "vision_fp32"
"""Name of the image encoder for captions and scores, where `vision` has 8-bit convolutions."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of `manifest.json`."""

    version: int
    """Format of the folder."""
    fingerprint: str
    """Fingerprint of the exported model. The gates bound how far its vectors differ."""
    source: str
    """Name of the exported model."""
    precision: str
    """`fp32`, or `int8` if weights are quantized."""
    opset: int
    """Version of the ONNX operators."""
    embed_dim: int
    """Size of an embedding."""
    logit_scale: float
    """Factor from cosine similarity to logit."""
    unimodal_layers: int
    """Decoder layers below the first cross-attention; as all sizes of a decoder, 0 without one."""
    multimodal_layers: int
    """Decoder layers with cross-attention."""
    heads: int
    """Attention heads of the decoder."""
    head_size: int
    """Features of an attention head."""
    files: Mapping[str, str]
    """SHA-256 of each file, by name."""
    gates: Mapping[str, Any]
    """Measured differences from torch, by gate."""

    @property
    def layers(self) -> int:
        """Number of decoder layers, each with a KV cache."""
        return self.unimodal_layers + self.multimodal_layers


def folder_named(name: str | Path) -> Path:
    """Return a path, or the folder of the shipped model of this name if no such path exists."""
    return shipped()[str(name)] if is_shipped(name) else Path(name)


def is_exported(name: str | Path) -> bool:
    """Return whether a model runs on ONNX Runtime: an exported one, by its folder.

    Where torch is not installed, so does a model folder with graphs, such as a shipped model.
    """
    folder = folder_named(name)
    by_torch = (folder / "config.json").is_file() and find_spec("torch") is not None
    return (folder / MANIFEST_FILE).is_file() and not by_torch


def check_shipped(folder: Path, found: str) -> None:
    """Check the fingerprint of a model, if it is a shipped one."""
    expected = FINGERPRINTS.get(folder.name, found)
    if folder == shipped().get(folder.name) and found != expected:
        raise ModelError(
            f"{folder} is damaged: the fingerprint of its files is {found}, but must be "
            f"{expected}; install coca-captioners again"
        )


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an exported model, and compare the digest of each file."""
    path = folder / MANIFEST_FILE
    content = read_model_json(
        path,
        missing=f"{folder} has no {MANIFEST_FILE}, so it is not an exported model; "
        "`coca export MODEL OUT --format onnx` writes one",
    )
    version = content.get("version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ModelError(f"{path} has version {version!r}; this release reads {FORMAT_VERSION}")
    try:
        manifest = Manifest(**content)
    except TypeError as error:
        raise ModelError(f"{path} does not describe an exported model: {error}") from None
    for name, digest in manifest.files.items():
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks the file {name} of its manifest")
        if sha256_file(folder / name) != digest:
            raise ModelError(f"{folder / name} was changed: its SHA-256 differs from {path}")
    return manifest


def open_graph(runtime: Any, path: Path, *, threads: int | None = None) -> Any:
    """Open a graph as a session of ONNX Runtime."""
    options = runtime.SessionOptions()
    # The arena of a session keeps its largest activations: 84 MB of `everyday` with captions.
    # Without it the times are the same.
    options.enable_cpu_mem_arena = False
    # Errors only: a warning of what constant folding leaves is not for users.
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # ONNX Runtime has no common base class of its errors.
        raise ModelError(f"{path} cannot be loaded: {error}") from error


def cross_names(layers: int) -> list[str]:
    """Return the names of the image's keys and values in all cross-attention layers."""
    return cache_names("cross", layers)


def cache_names(prefix: str, layers: int) -> list[str]:
    """Return the names of the keys and values of all layers, in the order of the tensors."""
    return [f"{prefix}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]

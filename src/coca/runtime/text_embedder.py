"""Embedding of texts without torch by the text encoder of a shipped model.

`text.onnx` of a shipped model contains no weights: its tensors are byte ranges of
`model.safetensors` next to it, as external data of ONNX, so the file has 33 kB.
`coca.release.onnx.text_graph` writes it.

Dimensions: N images or texts, M texts scored against N images, E embedding.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ModelError, StorageError
from coca.core.extras import require
from coca.core.files.atomic import read_json, sha256_file, user_cache, write_json
from coca.runtime.base_predictor import BasePredictor
from coca.runtime.files import TOKENIZER_FILE, open_graph
from coca.runtime.inputs import as_texts
from coca.runtime.preprocess import TextTokens, settings_from
from coca.runtime.short_vectors import shorten, shortened
from coca.weights import FINGERPRINTS, TEXT_GRAPHS, shipped

TEXT_GRAPH_FILE = "text.onnx"
METADATA_KEY = "coca"
"""Key of the metadata in `text.onnx`: JSON with `logit_scale`, with `preprocess` as in
`preprocess.json`, and with `files`, the SHA-256 of each file that the graph was made from."""
BATCH_SIZE = 64
"""Texts of one run of the graph."""


def has_text_graph(name: str | Path) -> bool:
    """Return whether a name is that of a shipped model with a text graph that can run here.

    An existing path takes precedence over a shipped name. Without onnxruntime, torch embeds texts.
    """
    known = str(name) in TEXT_GRAPHS and str(name) in shipped() and not Path(name).exists()
    return known and find_spec("onnxruntime") is not None


class TextEmbedder:
    """A shipped model that embeds texts without torch.

    Everything else, such as embedding an image or scoring a caption, loads the whole model.
    """

    dimensions: int | None = None
    """Kept numbers of each embedding; None: all. Set by `coca.runtime.short_vectors.shorten`."""

    def __init__(self, name: str, load: Callable[[], BasePredictor]) -> None:
        """Open the text graph of a shipped model."""
        folder = shipped()[name]
        path = folder / TEXT_GRAPH_FILE
        _check(path, TEXT_GRAPHS[name])
        # Idle threads spin: with two, a query takes three times the processor time.
        self._graph = open_graph(require("onnxruntime", extra="search"), path, threads=1)
        about = json.loads(self._graph.get_modelmeta().custom_metadata_map[METADATA_KEY])
        for file, digest in about["files"].items():
            _check(folder / file, digest)
        _, text, _ = settings_from(about["preprocess"], path)
        assert text is not None, "the graph is one of a CoCa model"
        self._tokens = TextTokens(folder / TOKENIZER_FILE, text)
        self._load = cache(load)
        self.fingerprint = FINGERPRINTS[name]
        self.logit_scale: float = about["logit_scale"]

    def __getattr__(self, name: str) -> Any:
        """Get any other attribute from the whole model."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.whole, name)

    @property
    def whole(self) -> BasePredictor:
        """The whole model, with vectors of the same size."""
        loaded = self._load()
        return loaded if self.dimensions is None else shorten(loaded, self.dimensions)

    @property
    def embed_dim(self) -> int:
        """Size of a vector."""
        return self.dimensions or self._graph.get_outputs()[0].shape[1]

    def embed_texts(self, texts: str | Iterable[str]) -> Float32[np.ndarray, "N E"]:
        """Compute one unit-norm embedding per text; a single text is a list of one."""
        listed = as_texts(texts)
        vectors = [np.zeros((0, self._graph.get_outputs()[0].shape[1]), np.float32)]
        for start in range(0, len(listed), BATCH_SIZE):
            tokens = self._tokens.encode(listed[start : start + BATCH_SIZE])
            vectors += self._graph.run(None, {"input_ids": tokens})
        joined = np.concatenate(vectors)
        return joined if self.dimensions is None else shortened(joined, self.dimensions)

    def embed_images(self, images: Sequence[Any], **options: Any) -> Float32[np.ndarray, "N E"]:
        """Embed images by the whole model; see `BasePredictor.embed_images`."""
        return self.whole.embed_images(images, **options)

    def score(
        self, images: Sequence[Any], texts: Sequence[str], **options: Any
    ) -> Float32[np.ndarray, "N M"]:
        """Score captions by the whole model; see `BasePredictor.score`."""
        return self.whole.score(images, texts, **options)


def _check(path: Path, digest: str) -> None:
    """Check a file by its hash, unless it is unchanged since a check on this machine."""
    checked = user_cache() / "checked" / f"{digest}.json"
    with suppress(OSError, ValueError):
        if read_json(checked) == _state(path):
            return
    if not path.is_file() or sha256_file(path) != digest:
        raise ModelError(f"{path} is missing or damaged; install coca-captioners again")
    # Without a place for it, the next check reads the file again.
    with suppress(StorageError):
        write_json(checked, _state(path))


def _state(path: Path) -> list[str | int]:
    found = path.stat()
    return [os.path.abspath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns]

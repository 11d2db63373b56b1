"""Image-text models in the folder layout of immich's machine learning service, on ONNX Runtime.

    config.json                   sizes of the model, as in OpenCLIP
    visual/model.onnx             image -> embedding; visual/preprocess_cfg.json
    textual/model.onnx            text -> embedding; tokenizer.json, tokenizer_config.json

`coca export --format immich` writes such folders, and immich's exporter does for models of OpenCLIP
and Multilingual CLIP. Texts are tokenized as by the service, images are resized as by OpenCLIP.

Dimensions: B batch, S side of the model's input (pixels), T text tokens, E shared embedding.
"""

import importlib
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from coca.core.errors import ConfigError, ModelError
from coca.core.files.atomic import files_fingerprint, read_model_json
from coca.inference.image_text_predictor import Placement
from coca.inference.model_kinds import ModelKind
from coca.runtime.embedding_predictor import OnnxTower
from coca.runtime.files import open_graph
from coca.runtime.preprocess import TowerText, TowerTokens, openclip_settings

SCALE = 100.0
"""Factor from cosine to logit where `config.json` has none; CLIP's training is clipped at it."""
GRAPH_BATCH = 4
"""Images or texts of one run; more take memory for their activations and no less time."""
OTHER_RUNTIMES = (".armnn", ".md", ".rknn")
"""Suffixes of files next to the graphs that are not read."""


class ImmichTokens(TowerTokens):
    """Texts to token ids, cleaned as by the service: white space, and if canonical punctuation."""

    def __init__(self, path: Path, settings: TowerText, *, canonical: bool) -> None:
        super().__init__(path, settings)
        self._canonical = canonical

    def leading_ids(self, text: str, count: int) -> list[int]:
        return super().leading_ids(self._cleaned(text), count)

    def encode(
        self, texts: Sequence[str]
    ) -> tuple[Int64[np.ndarray, "B T"], Int64[np.ndarray, "B T"]]:
        return super().encode([self._cleaned(text) for text in texts])

    def _cleaned(self, text: str) -> str:
        joined = " ".join(text.split())
        return joined.translate(_PUNCTUATION).lower() if self._canonical else joined


_PUNCTUATION = str.maketrans("", "", string.punctuation)


class ImmichPredictor(OnnxTower):
    """A model in immich's layout; a graph is loaded when it is first needed."""

    def __init__(self, folder: Path, *, batch_size: int = 16) -> None:
        """Read the settings of a folder."""
        super().__init__(source=str(folder), batch_size=batch_size)
        self._runtime = importlib.import_module("onnxruntime")
        self._graphs: dict[str, Any] = {}
        self._folder, path = folder, folder / "textual" / "tokenizer.json"
        about = read_model_json(folder / "config.json")
        preprocess = read_model_json(folder / "visual" / "preprocess_cfg.json")
        settings = read_model_json(folder / "textual" / "tokenizer_config.json")
        try:
            self._size, text = int(about["embed_dim"]), about.get("text_cfg") or {}
            self._scale = float(about.get("logit_scale", SCALE))
            kind = (text.get("tokenizer_kwargs") or {}).get("clean")
            texts = TowerText(
                context_length=int(text.get("context_length", 77)),
                pad_token=settings["pad_token"],
                padding="context",
                side="right",
                cleaning="none",
            )
            self.image_settings = openclip_settings(preprocess, folder)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{folder} does not describe an image-text model: {type(error).__name__} {error}"
            ) from None
        self._tower_tokens = ImmichTokens(path, texts, canonical=kind == "canonicalize")
        files = (
            it for name in ("config.json", "visual/*", "textual/*") for it in folder.glob(name)
        )
        used = (it for it in files if it.is_file() and it.suffix not in OTHER_RUNTIMES)
        self.fingerprint = files_fingerprint(folder, used)

    @property
    def embed_dim(self) -> int:
        return self.dimensions or self._size

    @property
    def logit_scale(self) -> float:
        return self._scale

    @property
    def dtype(self) -> str:
        return "float32"

    def _image_features(self, pixels: UInt8[np.ndarray, "B 3 S S"]) -> Float32[np.ndarray, "B E"]:
        settings = self.image_settings
        mean, std = (np.array([[it]]).T.astype(np.float32) for it in (settings.mean, settings.std))
        return self._run("visual", {"image": (pixels.astype(np.float32) / 255 - mean) / std})

    def _text_features(self, texts: Sequence[str]) -> Float32[np.ndarray, "B E"]:
        ids, mask = (it.astype(np.int32) for it in self.tokens.encode(texts))
        # Multilingual CLIP reads a mask, and names its inputs as transformers does.
        return self._run("textual", {"text": ids, "input_ids": ids, "attention_mask": mask})

    def _run(self, name: str, inputs: Mapping[str, np.ndarray]) -> Float32[np.ndarray, "B E"]:
        """Run a graph on a few rows at a time, or on one where its batch size is fixed."""
        if name not in self._graphs:
            path = self._folder / name / "model.onnx"
            self._graphs[name] = open_graph(self._runtime, path)
        graph = self._graphs[name]
        asked = graph.get_inputs()
        if unknown := [it.name for it in asked if it.name not in inputs]:
            raise ModelError(f"{name}/model.onnx of {self.source} has the input {unknown[0]!r}")
        size = 1 if isinstance(asked[0].shape[0], int) else GRAPH_BATCH
        parts = [
            graph.run(None, {it.name: inputs[it.name][start : start + size] for it in asked})[0]
            for start in range(0, len(inputs[asked[0].name]), size)
        ]
        return np.concatenate(parts)


def is_immich(folder: Path) -> bool:
    """Check whether a folder contains a model in immich's layout."""
    return all((folder / name / "model.onnx").is_file() for name in ("visual", "textual"))


def load(folder: Path, placed: Placement) -> ImmichPredictor:
    """Load a folder; ONNX Runtime runs it on the CPU, in fp32."""
    if placed.precision != "fp32":
        raise ConfigError(
            f"{folder} runs by ONNX Runtime in fp32, got precision {placed.precision}"
        )
    return ImmichPredictor(folder, batch_size=placed.batch_size)


def choose(names: Sequence[str]) -> list[str]:
    """Choose the files of a repository of immich-app that are read here."""
    read = [it for it in names if re.fullmatch(r"config\.json|(visual|textual)/[^/]+", it)]
    return [it for it in read if not it.endswith(OTHER_RUNTIMES)]


KIND = ModelKind(is_immich, load, choose)

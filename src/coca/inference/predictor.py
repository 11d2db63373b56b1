"""A loaded model for people: pictures and words in, vectors, captions and labels out.

    predictor = coca.load("runs/demo/model")
    predictor.embed_images(["cat.jpg"]) @ predictor.embed_texts(["a cat", "a dog"]).T

Letters: N pictures or texts, E shared embedding, K labels.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from coca.core.errors import ConfigError, ModelError
from coca.core.progress import ProgressMaker, silent
from coca.inference.prompts import PROMPTS, fill
from coca.model.coca import CoCa
from coca.model.config import CoCaConfig
from coca.model.generation import greedy
from coca.model.pretrained import load_model, weights_digest
from coca.processing.processor import PROCESSOR_FILE, TOKENIZER_FILE, Processor

Picture: TypeAlias = str | Path | bytes | Image.Image | ndarray
"""A path, an encoded file, a PIL image, or an array of height x width x 3 bytes."""

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

T = TypeVar("T")


@dataclass(frozen=True)
class Caption:
    """What the model says about a picture."""

    text: str
    """The words behind the prompt, the prompt included."""
    score: float
    """Natural logarithm of the probability of the words; 0 is certain."""


@dataclass(frozen=True)
class Prediction:
    """A label and how sure the model is of it."""

    label: str
    probability: float
    """0 to 1; sums to 1 over the labels that were offered."""


class Predictor:
    """A model with its processor, ready to use. Batches inside; keeps no state between calls."""

    def __init__(
        self,
        model: CoCa,
        processor: Processor,
        *,
        fingerprint: str,
        source: str = "",
        batch_size: int = 64,
    ) -> None:
        """Joins parts that are already loaded; `load` does it from a folder.

        Args:
            model: On its device and in its precision.
            processor: The one that the model was trained with.
            fingerprint: Names model and processor together; vectors of different fingerprints
                must never be compared.
            source: Where it was loaded from, for people.
            batch_size: Pictures or texts at a time.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1 (got {batch_size})")
        self.model = model.eval()
        self.processor = processor
        self.fingerprint = fingerprint
        self.source = source
        self.batch_size = batch_size

    @property
    def embed_dim(self) -> int:
        """Size of the vectors."""
        return self.model.config.embed_dim

    @torch.inference_mode()
    def embed_images(
        self, images: Picture | Sequence[Picture], *, progress: ProgressMaker = silent
    ) -> Float[ndarray, "N E"]:
        """Gives a unit vector for each picture; a single picture is a list of one.

        Raises:
            DataError: A picture cannot be read; the message names it.
        """
        rows = [
            self.model.encode_image(self._pixels(batch)).float().cpu().numpy()
            for batch in self._batches(_as_pictures(images), "embedding pictures", progress)
        ]
        return self._stacked(rows)

    @torch.inference_mode()
    def embed_texts(
        self, texts: str | Sequence[str], *, progress: ProgressMaker = silent
    ) -> Float[ndarray, "N E"]:
        """Gives a unit vector for each text; a single text is a list of one."""
        rows = [
            self.model.encode_text(self.processor.texts(batch).to(self._device))
            .float()
            .cpu()
            .numpy()
            for batch in self._batches(_as_texts(texts), "embedding texts", progress)
        ]
        return self._stacked(rows)

    @torch.inference_mode()
    def caption(
        self,
        images: Picture | Sequence[Picture],
        *,
        prompt: str = "",
        max_words: int | None = None,
        progress: ProgressMaker = silent,
    ) -> list[Caption]:
        """Describes each picture, greedily.

        Args:
            images: One or many.
            prompt: Words that each caption begins with.
            max_words: Most tokens behind the prompt; default: all that the context holds.
            progress: Shows how far it is.

        Raises:
            DataError: A picture cannot be read.
            ConfigError: `max_words` is below 1, or the prompt fills the context.
        """
        if max_words is not None and max_words < 1:
            raise ConfigError(f"max_words is {max_words}; it must be at least 1")
        tokenizer = self.processor.tokenizer
        ids = tokenizer.encode_prompt(prompt)
        captions = []
        for batch in self._batches(_as_pictures(images), "captioning", progress):
            out = greedy(
                self.model, self._pixels(batch), prompt=torch.tensor(ids), max_words=max_words
            )
            for words, scores in zip(out.token_ids, out.log_probabilities, strict=True):
                # The prompt is decoded along, since a word may be cut between two tokens.
                text = tokenizer.decode([*ids[1:], *words]).strip()
                captions.append(Caption(text, sum(scores)))
        return captions

    def class_embeddings(
        self,
        labels: str | Sequence[str],
        *,
        templates: Sequence[str] = PROMPTS["plain"],
        progress: ProgressMaker = silent,
    ) -> Float[ndarray, "K E"]:
        """Gives one unit vector a label: the mean over its prompts, as CLIP and CoCa do.

        Raises:
            ConfigError: No label, the same label twice, or a template without `{}`.
        """
        labels = _as_texts(labels)
        if not labels:
            raise ConfigError("there is no label; at least one is needed, such as 'cat'")
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise ConfigError(f"the label {twice!r} stands there twice; each needs its own name")
        sentences = [sentence for label in labels for sentence in fill(templates, label)]
        vectors = self.embed_texts(sentences, progress=progress)
        means = vectors.reshape(len(labels), len(templates), -1).mean(axis=1)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def classify(
        self,
        images: Picture | Sequence[Picture],
        labels: str | Sequence[str],
        *,
        templates: Sequence[str] = PROMPTS["plain"],
        progress: ProgressMaker = silent,
    ) -> list[list[Prediction]]:
        """Sorts labels by how well they fit each picture, without any training on them.

        Args:
            images: One or many.
            labels: Names to choose from.
            templates: Sentences with `{}` for the label; a label's vector is the mean over them.
            progress: Shows how far it is.

        Raises:
            DataError: A picture cannot be read.
            ConfigError: As `class_embeddings`.
        """
        labels = _as_texts(labels)
        classes = self.class_embeddings(labels, templates=templates)
        pictures = self.embed_images(images, progress=progress)
        logits = float(self.model.logit_scale.detach()) * pictures @ classes.T
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        return [
            [Prediction(labels[k], float(row[k])) for k in np.argsort(-row, kind="stable")]
            for row in probabilities
        ]

    @property
    def _device(self) -> torch.device:
        return self.model.log_scale.device

    def _pixels(self, images: Sequence[Picture]) -> torch.Tensor:
        return self.processor.images(images).to(self._device, self.model.log_scale.dtype)

    def _batches(
        self, items: Sequence[T], title: str, progress: ProgressMaker
    ) -> Iterator[Sequence[T]]:
        with progress(title, len(items)) as bar:
            for start in range(0, len(items), self.batch_size):
                batch = items[start : start + self.batch_size]
                yield batch
                bar.advance(len(batch))

    def _stacked(self, rows: list[ndarray]) -> ndarray:
        return np.concatenate(rows) if rows else np.zeros((0, self.embed_dim), np.float32)


def load(
    folder: str | Path,
    *,
    device: str | None = None,
    precision: Precision = "fp32",
    batch_size: int = 64,
) -> Predictor:
    """Loads a model from its folder, and nothing else.

    Args:
        folder: Holds `config.json`, `model.safetensors`, `tokenizer.json`, `processor.json`, as
            `coca pretrain` writes them; a run's folder stands for the model within.
        device: Such as `"cuda:0"`; default: the first accelerator, else the CPU.
        precision: Of weights and arithmetic; embeddings are fp32 always.
        batch_size: Pictures or texts at a time.

    Raises:
        ModelError: A file is missing, damaged, or does not fit.
        ConfigError: An unknown precision or device.
    """
    path = _model_folder(Path(folder))
    if precision not in _DTYPES:
        raise ConfigError(f"precision {precision!r} is unknown; choose one of {', '.join(_DTYPES)}")
    model = load_model(path, device=_device_named(device), dtype=_DTYPES[precision])
    processor = Processor.load(path)
    _require_fit(path, model.config, processor)
    return Predictor(
        model, processor, fingerprint=fingerprint(path), source=str(path), batch_size=batch_size
    )


def fingerprint(folder: str | Path) -> str:
    """Names model and processor of a folder by 16 hex digits, without reading the weights.

    Raises:
        ModelError: A file is missing or damaged.
    """
    digest = hashlib.sha256(weights_digest(folder).encode())
    for name in (PROCESSOR_FILE, TOKENIZER_FILE):
        try:
            digest.update((Path(folder) / name).read_bytes())
        except OSError as error:
            raise ModelError(f"{folder} holds no readable {name}: {error.strerror}") from error
    return digest.hexdigest()[:16]


def _require_fit(path: Path, config: CoCaConfig, processor: Processor) -> None:
    words, side = processor.tokenizer.vocab_size, processor.image_config.image_size
    faults = []
    if words > config.text.vocab_size:
        faults.append(f"the tokenizer knows {words} words, the model {config.text.vocab_size}")
    if processor.context_length > config.text.context_length:
        faults.append(
            f"the processor makes captions of {processor.context_length} tokens, the model reads "
            f"{config.text.context_length}"
        )
    if side % config.image.patch_size:
        faults.append(
            f"the processor makes pictures of {side} px, no multiple of the model's patches of "
            f"{config.image.patch_size} px"
        )
    if faults:
        raise ModelError(f"{path} mixes files of different models: {'; '.join(faults)}")


def _model_folder(folder: Path) -> Path:
    """A run keeps its finished model in `model`; naming the run is enough."""
    inner = folder / "model"
    return inner if not (folder / "config.json").exists() and inner.is_dir() else folder


def _device_named(name: str | None) -> torch.device:
    if name is None:
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return found or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used here: {reason}") from None


def _as_pictures(images: Picture | Sequence[Picture]) -> Sequence[Picture]:
    return [images] if isinstance(images, str | bytes | Path | Image.Image | ndarray) else images


def _as_texts(texts: str | Sequence[str]) -> Sequence[str]:
    return [texts] if isinstance(texts, str) else texts

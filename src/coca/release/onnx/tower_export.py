"""Models of other libraries as graphs, and their tokenizers as files that run without the library.

Dimensions: B batch, S side of an image (pixels), T text tokens, E embedding, Q image tokens that a
decoder on the model reads, C their width.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
from jaxtyping import Float, UInt8
from tokenizers import processors
from torch import Tensor, nn
from torch.nn import functional as F

from coca.core.errors import UnsupportedError
from coca.model.openclip.openclip import AnyCoCa
from coca.predict.image_text_predictor import ImageTextPredictor
from coca.predict.manifest import is_exported
from coca.predict.model_kinds import library_of
from coca.predict.open_weights import model_folder
from coca.predict.openclip_model import OpenCLIPPredictor
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.predict.tower import TowerPredictor, load_tower
from coca.processing.clip_bpe import EOT, SOT, ClipTokenizer
from coca.processing.preprocess import TowerText, TowerTokens
from coca.release.onnx.graphs import BATCH, Graph, Pixels

_START, _END = "<start_of_text>", "<end_of_text>"
"""OpenCLIP's names of CLIP's special tokens, which a text may contain."""
PROBES = ("a photo of a dog", "two people on a beach at sunset, Red car 1965")
"""Texts with which graphs are traced."""
TEXTS = (
    "",
    "a photo of a dog",
    "A PHOTO: two cats, three_birds; it's 5 o'clock!",
    "  spaces \t within\n",
    "&lt;b&gt;bold&lt;/b&gt; naïve café Zürich",
    "<|endoftext|> </s>",
    "word " * 300,
    "一只狗在草地上奔跑 犬が草の上を走る 개가 달린다",
    "собака бежит по траве كلب يجري",
    "🐕 I ❤️ 🍕🍕",
)
"""Texts whose ids and embeddings are compared with those of the library."""


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


def tower_of(predictor: TorchPredictor | ImageTextPredictor) -> ImageTextPredictor | None:
    """Return the model of another library whose embeddings a model has, if there is one."""
    if isinstance(predictor, TowerPredictor):
        return predictor.tower
    return predictor if isinstance(predictor, ImageTextPredictor) else None


class TowerVision(Pixels):
    """Embedding of images, and the tokens for a decoder; pixels are normalized here."""

    def __init__(self, tower: ImageTextPredictor, captioner: AnyCoCa | None) -> None:
        super().__init__(tower.image_settings)
        self.tower, self.model, self.captioner = tower, tower.model, captioner

    def forward(
        self, pixels: UInt8[Tensor, "B 3 S S"]
    ) -> Float[Tensor, "B E"] | tuple[Float[Tensor, "B E"], Float[Tensor, "B Q C"]]:
        images = self.normalized(pixels)
        embeds = F.normalize(self.tower.image_features(images), dim=-1)
        return embeds if self.captioner is None else (embeds, self.captioner.image_tokens(images))


class Embedding(nn.Module):
    """A function that embeds normalized images or token ids, with the model whose weights it has.

    Its input is named `given`.
    """

    def __init__(self, model: nn.Module, embed: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.embed = model, embed

    def forward(self, given: Tensor) -> Float[Tensor, "B E"]:
        return self.embed(given)


def tower_texts(tower: ImageTextPredictor) -> Embedding:
    """Return the module that embeds padded token ids."""
    return Embedding(tower.model, lambda ids: F.normalize(tower.text_features(ids.long()), dim=-1))


def tower_graphs(tower: ImageTextPredictor, captioner: AnyCoCa | None) -> Iterator[Graph]:
    """Yield the graphs `vision` and `text` of a model of another library."""
    side = tower.image_settings.image_size
    length = torch.export.Dim("length", min=2, max=tower.context_length)
    yield Graph(
        "vision",
        TowerVision(tower, captioner),
        {"pixels": torch.zeros(2, 3, side, side, dtype=torch.uint8)},
        {"pixels": {0: BATCH}},
        ["pixels"],
        ["image_embeds"] if captioner is None else ["image_embeds", "image_tokens"],
    )
    yield Graph(
        "text",
        tower_texts(tower),
        {"given": tower.tokenize(PROBES)},
        {"given": {0: BATCH} if tower.pads_to_context else {0: BATCH, 1: length}},
        ["input_ids"],
        ["text_embeds"],
    )


def write_tower_tokenizer(tower: ImageTextPredictor, path: Path) -> TowerText:
    """Write the tokenizer of a model, compared with the library's on texts of many scripts."""
    inner: Any = tower.tokenizer
    cleaning: Any = "none"
    if isinstance(tower, OpenCLIPPredictor):
        cleaning = inner.clean_fn.__name__.removeprefix("_clean_").replace("lower", "clip")
        inner = getattr(inner, "tokenizer", None)
    side: Literal["right", "left"] = "right"
    pad_id = 0
    if inner is None:
        backend = _clip_tokenizer(tower.tokenizer, path)
    elif hasattr(inner, "backend_tokenizer"):
        backend = tokenizers.Tokenizer.from_str(inner.backend_tokenizer.to_str())
        pad_id, side = int(inner.pad_token_id), inner.padding_side
    else:
        raise _uncarried(tower, f"{type(inner).__name__} is not one of the library tokenizers")
    settings = TowerText(
        context_length=tower.context_length,
        pad_token=backend.id_to_token(pad_id) or "",
        padding="context" if tower.pads_to_context else "longest",
        side=side,
        cleaning=cleaning,
    )
    backend.save(str(path))
    tokens = TowerTokens(path, settings)
    for text in TEXTS:
        (found,), expected = tokens.encode([text])[0].tolist(), tower.tokenize([text])[0].tolist()
        # OpenCLIP pads further than a causal text encoder reads.
        if found + [pad_id] * (len(expected) - len(found)) != expected:
            raise _uncarried(tower, f"its ids of {text[:40]!r} would differ")
    return settings


def _clip_tokenizer(tokenizer: Any, path: Path) -> tokenizers.Tokenizer:
    """Build CLIP's tokenizer with the special tokens of OpenCLIP, which adds them itself."""
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    ClipTokenizer.from_merges(merges).save(path)
    content = path.read_text(encoding="utf-8").replace(SOT, _START).replace(EOT, _END)
    backend = tokenizers.Tokenizer.from_str(content)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}",
        special_tokens=[(name, backend.token_to_id(name)) for name in (_START, _END)],
    )
    return backend


def _uncarried(tower: ImageTextPredictor, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"the tokenizer of {tower.source} cannot run without {tower.library}: {reason}; use the "
        "model by torch, or export an edition whose tokenizer.json does the same"
    )

"""Tokenizers of other libraries' models, as files that run without the library."""

from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import processors

from coca.core.errors import UnsupportedError
from coca.predict.image_text_predictor import ImageTextPredictor
from coca.predict.openclip_model import OpenCLIPPredictor
from coca.processing.clip_bpe import EOT, SOT, ClipTokenizer
from coca.processing.preprocess import TowerText, TowerTokens

_START, _END = "<start_of_text>", "<end_of_text>"
"""OpenCLIP's names of CLIP's special tokens, which a text may contain."""
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

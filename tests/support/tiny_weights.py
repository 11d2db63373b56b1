"""Files as OpenCLIP publishes them, small enough for a test, and a hub that serves a folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from open_clip.coca_model import CoCa as Peer

from coca.core.errors import ModelError
from coca.processing.clip_bpe import ClipTokenizer
from tiny_openclip import drawn

WEIGHTS, ABOUT = "open_clip_pytorch_model.bin", "open_clip_config.json"
CONTEXT = 12


def tiny_clip_tokenizer() -> ClipTokenizer:
    return ClipTokenizer.from_merges([("c", "a"), ("ca", "t</w>"), ("t", "h"), ("th", "e</w>")])


def model_cfg() -> dict[str, Any]:
    """Heads of 64 features and a pooler of 8 heads, as is assumed without a description."""
    text = {
        "context_length": CONTEXT,
        "vocab_size": tiny_clip_tokenizer().vocab_size,
        "width": 64,
        "heads": 1,
        "layers": 1,
    }
    return {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 16,
            "layers": 1,
            "width": 64,
            "patch_size": 8,
            "attentional_pool": True,
            "attn_pooler_queries": 5,
            "attn_pooler_heads": 8,
            "output_tokens": True,
        },
        "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": text,
    }


def tiny_peer(seed: int = 0) -> Peer:
    return drawn(Peer(**model_cfg()).eval(), seed=seed)


def write_open_clip(
    folder: Path, *, seed: int = 0, about: bool = True, vocabulary: bool = True
) -> Path:
    """A folder with weights and, by default, their description."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tiny_peer(seed).state_dict(), folder / WEIGHTS)
    if about:
        (folder / ABOUT).write_text(json.dumps({"model_cfg": model_cfg()}), encoding="utf-8")
    if vocabulary:
        tiny_clip_tokenizer().save(folder / "tokenizer.json")
    return folder


class FolderHub:
    """Repositories are folders within one; counts what it was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []

    def files(self, repo: str, *, revision: str | None) -> list[str]:
        return sorted(path.name for path in self._folder(repo, revision).iterdir())

    def fetch(self, repo: str, name: str, *, revision: str | None) -> Path:
        self.fetched.append(f"{repo}/{name}")
        path = self._folder(repo, revision) / name
        if not path.is_file():
            raise ModelError("the repository has no such file")
        return path

    def upload(self, folder: Path, repo: str, *, private: bool) -> None:
        shutil.copytree(folder, self.root / repo, dirs_exist_ok=True)

    def _folder(self, repo: str, revision: str | None) -> Path:
        folder = self.root / (f"{repo}@{revision}" if revision else repo)
        if not folder.is_dir():
            raise ModelError("the hub has no such repository, or hides it")
        return folder

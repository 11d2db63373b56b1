"""A model learns to hear: tones it was not trained on, from every kind of source."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import coca
from coca.core.errors import DataError
from coca.workflows.training.pretrain import pretrain
from tiny_audio import tone, wav
from tiny_workflows import recipe

pytest.importorskip("av", reason="needs the extra `audio`")

NAMES = ("a low tone", "a high tone")


def clip(generator: np.random.Generator, name: str) -> bytes:
    hz = generator.uniform(150, 500) if name == NAMES[0] else generator.uniform(2_000, 6_000)
    noise = generator.normal(0, 0.01, 12_000)
    return wav((tone(hz, 0.75) + noise).astype(np.float32))


def write_folder(folder: Path, clips: list[tuple[str, bytes]]) -> list[str]:
    for number, (name, data) in enumerate(clips):
        (folder / f"{number}.wav").write_bytes(data)
        (folder / f"{number}.txt").write_text(name)
    return ["data.sources.0.kind=folder", f"data.sources.0.path={folder}"]


def write_tar(folder: Path, clips: list[tuple[str, bytes]]) -> list[str]:
    write_folder(folder, clips)
    with tarfile.open(folder / "clips.tar", "w") as tar:
        for path in sorted(folder.glob("*.wav")):
            tar.add(path, path.name)
            tar.add(path.with_suffix(".txt"), path.with_suffix(".txt").name)
    return ["data.sources.0.kind=shards", f"data.sources.0.path={folder}/clips.tar"]


@pytest.mark.parametrize("write", [write_folder, write_tar])
def test_tones_are_told_apart_and_described(
    tmp_path: Path, write: Callable[[Path, list[tuple[str, bytes]]], list[str]]
) -> None:
    generator = np.random.default_rng(0)
    (tmp_path / "clips").mkdir()
    clips = [(name, clip(generator, name)) for name in NAMES * 8]
    overrides = write(tmp_path / "clips", clips)
    result = pretrain(
        recipe(
            tmp_path / "clips",
            tmp_path / "run",
            *overrides,
            "data.audio_s=1",
            "train.steps=60",
            "train.save_every=60",
            "data.loader.batch_size=8",
        )
    )
    predictor = coca.load(result.model, device="cpu")
    assert predictor.image_settings.audio_s == 1.0
    asked = [(name, clip(generator, name)) for name in NAMES * 5]
    ranked = predictor.classify([data for _, data in asked], NAMES, templates=("{}",))
    assert [labels[0].label for labels in ranked] == [name for name, _ in asked]
    captions = predictor.caption([data for _, data in asked])
    assert [caption.text for caption in captions] == [name for name, _ in asked]


def test_a_run_without_audio_s_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    generator = np.random.default_rng(0)
    write_folder(tmp_path / "clips", [(name, clip(generator, name)) for name in NAMES * 4])
    with pytest.raises(DataError, match=r"are audio: set data\.audio_s"):
        pretrain(recipe(tmp_path / "clips", tmp_path / "run"))

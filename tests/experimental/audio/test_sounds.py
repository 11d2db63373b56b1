"""A model trained on spectrograms distinguishes tones, and finds them in a collection."""

from pathlib import Path

import numpy as np
import pytest

import coca
from coca.core.errors import ConfigError
from coca.workflows.collections.collection_model import open_search
from coca.workflows.collections.image_sources import ImageUri, resolve_uris
from coca.workflows.collections.index import index_images
from coca.workflows.training.pretrain import pretrain
from tiny_audio import tone, wav
from tiny_workflows import recipe

pytest.importorskip("av", reason="needs the extra `audio`")

NAMES = ("a low tone", "a high tone")


def clip(generator: np.random.Generator, name: str) -> bytes:
    hz = generator.uniform(150, 500) if name == NAMES[0] else generator.uniform(2_000, 6_000)
    noise = generator.normal(0, 0.01, 12_000)
    return wav((tone(hz, 0.75) + noise).astype(np.float32))


def test_tones_are_told_apart_described_and_found(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    folder = tmp_path / "clips"
    folder.mkdir()
    rows = []
    for number, name in enumerate(NAMES * 8):
        (folder / f"{number}.wav").write_bytes(clip(generator, name))
        rows.append(f"{number}.wav,{name}")
    (folder / "clips.csv").write_text("\n".join(["image,caption", *rows]))
    result = pretrain(
        recipe(
            folder,
            tmp_path / "run",
            "data.sources.0.kind=manifest",
            f"data.sources.0.path={folder}/clips.csv",
            "train.steps=60",
            "train.save_every=60",
            "data.loader.batch_size=8",
        )
    )
    predictor = coca.load(result.model, device="cpu")
    asked = [(name, clip(generator, name)) for name in NAMES * 5]
    ranked = predictor.classify([data for _, data in asked], NAMES, templates=("{}",))
    assert [labels[0].label for labels in ranked] == [name for name, _ in asked]
    captions = predictor.caption([data for _, data in asked])
    assert [caption.text for caption in captions] == [name for name, _ in asked]
    uri = str(tmp_path / "clips.db")
    files = [folder / f"{number}.wav" for number in range(4)]
    assert index_images(files, predictor, uri=uri, captions=False).report.added == 4
    with open_search(uri, model=predictor) as engine:
        (best,) = engine.search(image=files[1].read_bytes(), k=1)
    assert best.path == str(files[1])


def test_sounds_are_indexed_by_name_and_not_with_the_images_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.WAV").write_bytes(wav(tone(440, 0.1)))
    assert resolve_uris([tmp_path / "a.WAV"]) == [ImageUri(str(tmp_path / "a.WAV"))]
    (tmp_path / "a.mid").write_bytes(b"MThd")
    with pytest.raises(ConfigError, match="cannot be indexed"):
        resolve_uris([tmp_path / "a.mid"])

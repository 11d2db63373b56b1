"""Encoders compiled by OpenVINO, of models with random weights, against those by torch."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino", reason="the extra openvino is not installed")
pytest.importorskip("open_clip", reason="the extra openclip is not installed")
pytest.importorskip("transformers", reason="the extra transformers is not installed")

import torch

import coca
from coca.core.errors import ConfigError, ModelError
from tiny_image_text import TEXTS, awkward_images, write_openclip, write_transformers

FAMILIES = ("openclip-clip", "openclip-siglip", "openclip-mobileclip", "hf-clip", "hf-siglip")


def written(family: str, folder: Path) -> Path:
    library, _, name = family.partition("-")
    return (
        write_openclip(folder, name) if library == "openclip" else write_transformers(folder, name)
    )


@pytest.mark.parametrize("family", [*FAMILIES, "hf-chinese_clip", "hf-altclip"])
def test_vectors_equal_those_of_torch(family: str, tmp_path: Path) -> None:
    folder, images = written(family, tmp_path), awkward_images()
    by_torch = coca.load(folder, device="cpu")
    compiled = coca.load(folder, runtime="openvino", batch_size=7)
    assert compiled.fingerprint == by_torch.fingerprint
    assert compiled.dtype == "float32"
    of_images, of_texts = by_torch.embed_images(images), by_torch.embed_texts(TEXTS)
    np.testing.assert_allclose(compiled.embed_images(images), of_images, atol=2e-6, rtol=0)
    np.testing.assert_allclose(compiled.embed_texts(TEXTS), of_texts, atol=2e-6, rtol=0)
    # One text at a time, each in its own length.
    alone = np.concatenate([compiled.embed_texts(text) for text in TEXTS])
    np.testing.assert_allclose(alone, of_texts, atol=2e-6, rtol=0)


def test_bf16_is_close_or_refused(tmp_path: Path) -> None:
    folder, images = write_openclip(tmp_path), awkward_images()
    whole = coca.load(folder, runtime="openvino")
    try:
        lower = coca.load(folder, runtime="openvino", precision="bf16")
    except ConfigError:
        with pytest.raises(ConfigError, match="does not compute on this processor; set it to fp32"):
            coca.load(folder, runtime="openvino", precision="bf16")
        return
    assert lower.dtype == "bfloat16"
    assert (lower.embed_texts(TEXTS) * whole.embed_texts(TEXTS)).sum(axis=1).min() > 0.99
    assert (lower.embed_images(images) * whole.embed_images(images)).sum(axis=1).min() > 0.99


def test_threads_share_a_compiled_model(tmp_path: Path) -> None:
    compiled = coca.load(write_openclip(tmp_path), runtime="openvino")
    expected = compiled.embed_texts(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: compiled.embed_texts(TEXTS), range(12)):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_other_vectors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_openclip(tmp_path)
    monkeypatch.setattr(
        "coca.inference.image_text_predictor.compile_openvino",
        lambda model, encode, example, precision: (
            lambda **inputs: torch.flip(encode(**inputs), dims=(1,))
        ),
    )
    with pytest.raises(ModelError, match=r"fp32 has a vector with a cosine of .* 0.9999 is requ"):
        coca.load(folder, runtime="openvino")


def test_what_cannot_be_compiled_is_refused(tmp_path: Path) -> None:
    folder = write_openclip(tmp_path / "clip")
    with pytest.raises(ConfigError, match="and everyday is a CoCa model; leave --runtime out"):
        coca.load("everyday", runtime="openvino")
    with pytest.raises(ConfigError, match="auto, fp32 or bf16 with runtime openvino, got int8"):
        coca.load(folder, runtime="openvino", precision="int8")
    naflex = write_transformers(tmp_path / "naflex", "siglip2")
    with pytest.raises(ConfigError, match=r"images of one size, and .*naflex is another"):
        coca.load(naflex, runtime="openvino")

"""Exported models of other libraries, run without these libraries, against the libraries."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import coca
from coca.core.errors import ConfigError, ModelError, UnsupportedError
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig
from coca.model.pretrained import load_model, save_model
from coca.predict.image_text_predictor import ImageTextPredictor
from coca.predict.tower import TowerConfig, TowerPredictor, load_tower
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.preprocess import TowerTokens
from coca.processing.processor import Processor
from coca.release.export import export
from coca.release.onnx.onnx_export import load_for_export
from coca.release.onnx.tower_tokenizer import write_tower_tokenizer
from tiny import seed_weights
from tiny_image_text import (
    TEXTS,
    awkward_images,
    write_openclip,
    write_transformers,
)
from tiny_model import write_model

pytest.importorskip("onnxscript", reason="needs the extra onnx; run `make test-export`")
pytest.importorskip("open_clip", reason="the extra openclip is not installed")
pytest.importorskip("transformers", reason="the extra transformers is not installed")
pytestmark = pytest.mark.timeout(1800)

WRITERS: dict[str, Callable[[Path], Path]] = {
    "openclip-clip": write_openclip,
    "openclip-siglip": partial(write_openclip, family="siglip"),
    "openclip-mobileclip": partial(write_openclip, family="mobileclip"),
    "hf-clip": write_transformers,
    "hf-siglip": partial(write_transformers, family="siglip"),
    "hf-chinese_clip": partial(write_transformers, family="chinese_clip"),
}
ALONE = """
import json, sys
import coca
predictor = coca.load(sys.argv[1])
vectors = predictor.embed_images(sys.argv[3:]), predictor.embed_texts(json.loads(sys.argv[2]))
libraries = {"torch", "transformers", "open_clip"} & set(sys.modules)
print(json.dumps([it.tolist() for it in vectors] + [sorted(libraries)]))
"""


class Exported(NamedTuple):
    model: Path
    folder: Path


def command(*words: str) -> str:
    """Run a command in another process, where no shapes are checked."""
    done = subprocess.run([sys.executable, "-m", "coca", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=WRITERS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("exported")
    model = WRITERS[request.param](root / "model")
    command("export", str(model), str(root / "onnx"), "--format", "onnx")
    return Exported(model, root / "onnx")


one_model = pytest.mark.parametrize("exported", ["openclip-siglip"], indirect=True)


def test_vectors_equal_those_of_the_library_without_it(exported: Exported, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.img" for number in range(30)]
    for path, data in zip(paths, awkward_images(), strict=True):
        path.write_bytes(data)
    words = (str(exported.folder), json.dumps(TEXTS), *map(str, paths))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *words], capture_output=True, text=True, check=True
    )
    of_images, of_texts, libraries = json.loads(done.stdout)
    assert libraries == []
    library = coca.load(exported.model, device="cpu")
    np.testing.assert_allclose(of_images, library.embed_images(paths), atol=2e-6, rtol=0)
    np.testing.assert_allclose(of_texts, library.embed_texts(TEXTS), atol=2e-6, rtol=0)
    alone = coca.load(exported.folder)
    assert (alone.fingerprint, alone.embed_dim) == (library.fingerprint, library.embed_dim)
    assert alone.logit_scale == pytest.approx(library.logit_scale)
    assert alone.context_length == library.context_length
    assert alone.max_text_tokens == library.max_text_tokens
    assert alone.leading_ids("a dog", 2) == library.leading_ids("a dog", 2)
    np.testing.assert_allclose(
        coca.load(exported.folder, batch_size=7, dimensions=8).embed_texts(TEXTS),
        coca.load(exported.model, device="cpu", dimensions=8).embed_texts(TEXTS),
        atol=1e-5,
        rtol=0,
    )


@one_model
def test_what_needs_a_decoder_or_another_export_is_refused(
    exported: Exported, tmp_path: Path
) -> None:
    alone = coca.load(exported.folder)
    assert not alone.has_decoder
    about = json.loads(command("info", str(exported.folder), "--json"))
    assert (about["fingerprint"], about["has_decoder"]) == (alone.fingerprint, False)
    with pytest.raises(UnsupportedError, match="use a CoCa model for these, such as everyday"):
        alone.caption(awkward_images()[:1])
    with pytest.raises(UnsupportedError, match="is an ONNX model already"):
        load_for_export(exported.folder)
    with pytest.raises(UnsupportedError, match=r"another library.*--format onnx"):
        export(exported.model, tmp_path / "out")
    tokenizer = exported.folder / "tower_tokenizer.json"
    kept = tokenizer.read_bytes()
    tokenizer.write_bytes(kept + b" ")
    with pytest.raises(ModelError, match=r"tower_tokenizer.json was changed"):
        coca.load(exported.folder)
    tokenizer.write_bytes(kept)


@pytest.mark.parametrize("embeddings", ["tower", "coca"])
def test_a_decoder_on_a_tower_is_exported_with_it(embeddings: Any, tmp_path: Path) -> None:
    tower = WRITERS["openclip-siglip"](tmp_path / "tower")
    folder = write_model(tmp_path / "model")
    config, processor = load_model(folder).config, Processor.load(folder)
    assert isinstance(config, CoCaConfig)
    image = TowerConfig(
        kind="openclip", name=str(tower), image_size=32, width=24, embeddings=embeddings
    ).resolved()
    seed_weights()
    save_model(folder, CoCa(config.replace(image=image, embed_dim=64)))
    transform = ImageTransform(ImageConfig(image_size=32, resize="squash"))
    Processor(transform, processor.tokenizer, processor.context_length).save(folder)
    command("export", str(folder), str(tmp_path / "out"), "--format", "onnx")
    torch_model, alone = coca.load(folder, device="cpu"), coca.load(tmp_path / "out")
    assert isinstance(torch_model, TowerPredictor) == (embeddings == "tower")
    # Of the model's own size, since torch and Pillow round differently.
    random = np.random.default_rng(0)
    images = [Image.fromarray(it) for it in random.integers(0, 256, (5, 32, 32, 3), np.uint8)]
    np.testing.assert_allclose(
        alone.embed_images(images), torch_model.embed_images(images), atol=1e-5, rtol=0
    )
    np.testing.assert_allclose(
        alone.embed_texts(TEXTS), torch_model.embed_texts(TEXTS), atol=1e-5, rtol=0
    )
    assert [it.token_ids for it in alone.caption(images)] == [
        it.token_ids for it in torch_model.caption(images)
    ]
    texts = ["a cat", "the car on the road"]
    np.testing.assert_allclose(
        alone.score(images, texts), torch_model.score(images, texts), atol=1e-3, rtol=0
    )
    for name in ("fingerprint", "context_length", "max_text_tokens"):
        assert getattr(alone, name) == getattr(torch_model, name)


def test_models_that_need_their_library_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="images of one size, such as SigLIP 2 without NaFlex"):
        load_for_export(write_transformers(tmp_path / "naflex", "siglip2"))


@pytest.mark.parametrize("fault", ["slow", "truncates the start"])
def test_a_tokenizer_that_needs_its_library_is_refused(fault: str, tmp_path: Path) -> None:
    tower = load_tower(write_transformers(tmp_path / "clip"))
    assert isinstance(tower, ImageTextPredictor)
    if fault == "slow":
        tower.tokenizer = object()
    else:
        tower.tokenizer.truncation_side = "left"
    with pytest.raises(UnsupportedError, match="cannot run without transformers"):
        write_tower_tokenizer(tower, tmp_path / "tokenizer.json")


def test_padding_on_the_left_is_kept(tmp_path: Path) -> None:
    tower = load_tower(write_transformers(tmp_path / "siglip", "siglip"))
    tower.tokenizer.padding_side = "left"
    settings = write_tower_tokenizer(tower, tmp_path / "tokenizer.json")
    ids, mask = TowerTokens(tmp_path / "tokenizer.json", settings).encode(["a dog", "a"])
    assert ids.tolist() == tower.tokenize(["a dog", "a"]).tolist()
    assert mask.sum(axis=1).tolist() == [6, 2]
    assert mask[:, -1].tolist() == [1, 1]
    with pytest.raises(ModelError, match="lacks the padding token 'other'"):
        TowerTokens(tmp_path / "tokenizer.json", replace(settings, pad_token="other"))

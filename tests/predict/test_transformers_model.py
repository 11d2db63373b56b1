"""Image-text models of transformers, built by transformers with random weights."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the extra transformers is not installed")

import torch
import transformers
from PIL import Image

import coca
from coca.core.errors import MissingExtraError, ModelError
from coca.predict.open_weights import OpenWeights, model_folder
from coca.predict.torch_loading import load_coca
from folder_hub import FolderHub
from tiny_image_text import TEXTS, TRANSFORMERS, awkward_images, upright_rgb, write_transformers

LIBRARY: Any = transformers


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_vectors_equal_those_of_transformers(family: str, tmp_path: Path) -> None:
    folder = write_transformers(tmp_path, family)
    loaded = coca.load(folder, device="cpu", batch_size=7)
    model = LIBRARY.AutoModel.from_pretrained(folder).eval()
    images = awkward_images()
    pixels = LIBRARY.AutoImageProcessor.from_pretrained(folder, backend="pil")(
        [upright_rgb(image) for image in images], return_tensors="pt"
    )
    tokens = LIBRARY.AutoTokenizer.from_pretrained(folder)(
        TEXTS,
        padding="max_length" if "siglip" in family else True,
        truncation=True,
        max_length=loaded.context_length,
        return_tensors="pt",
    )
    with torch.inference_mode():
        expected = model(**pixels, **tokens)
    of_images, of_texts = expected.image_embeds.numpy(), expected.text_embeds.numpy()
    np.testing.assert_allclose(loaded.embed_images(images), of_images, atol=1e-6, rtol=0)
    np.testing.assert_allclose(loaded.embed_texts(TEXTS), of_texts, atol=1e-6, rtol=0)
    assert (of_images @ of_images.T).min() < 0.9999
    assert (loaded.embed_dim, loaded.has_decoder) == (of_images.shape[1], False)
    assert loaded.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))


def test_an_image_that_is_opened_once_may_be_in_the_list_twice(tmp_path: Path) -> None:
    loaded = coca.load(write_transformers(tmp_path), device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    (expected,) = loaded.embed_images([tmp_path / "noise.png"])
    # Its pixels are loaded at the first use, which two threads must not do at once.
    with Image.open(tmp_path / "noise.png") as image:
        vectors = loaded.embed_images([image] * 8)
    np.testing.assert_allclose(vectors, np.stack([expected] * 8), atol=1e-6)


def test_a_repository_of_transformers_is_copied(tmp_path: Path) -> None:
    repository = write_transformers(tmp_path / "hub" / "some" / "siglip", "siglip")
    (repository / "README.md").write_text("a model", encoding="utf-8")
    source = OpenWeights(tmp_path / "cache", FolderHub(tmp_path / "hub"))
    # A folder is used where it is.
    assert model_folder(f"hf:{repository}", open_weights=source) == repository
    saved = model_folder("hf:some/siglip", open_weights=source)
    shutil.rmtree(repository)
    assert model_folder("hf:some/siglip", open_weights=source) == saved
    assert not (saved / "README.md").exists()
    loaded = coca.load(saved, device="cpu")
    assert loaded.embed_texts(TEXTS).shape == (30, loaded.embed_dim)


def test_code_of_a_repository_is_refused(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "some" / "jina-clip"
    repository.mkdir(parents=True)
    code = {"AutoModel": "some/jina-clip--modeling_clip.JinaCLIPModel"}
    content = {"model_type": "jina_clip", "auto_map": code}
    (repository / "config.json").write_text(json.dumps(content), encoding="utf-8")
    source = OpenWeights(tmp_path / "cache", FolderHub(tmp_path / "hub"))
    for call in (
        lambda: model_folder("hf:some/jina-clip", open_weights=source),
        lambda: coca.load(repository),
    ):
        with pytest.raises(ModelError, match=r"needs Python code .*JinaCLIPModel.*is not run here"):
            call()


def test_a_missing_library_is_reported_before_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_transformers(tmp_path / "hub" / "some" / "siglip", "siglip")
    hub = FolderHub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[transformers\]'"):
        OpenWeights(tmp_path / "cache", hub).repository("some/siglip")
    assert hub.fetched == ["some/siglip/config.json"]


def test_a_damaged_folder_is_reported_in_one_sentence(tmp_path: Path) -> None:
    folder = write_transformers(tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        coca.load(folder)
    with pytest.raises(ModelError, match="this needs a CoCa model"):
        load_coca(folder)


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("do_normalize", False, "with do_normalize false; only models that resize"),
        ("do_rescale", False, "with do_rescale false"),
        ("rescale_factor", 1 / 127.5, "rescales pixels by 0.0078"),
    ],
)
def test_images_that_are_prepared_in_another_way_are_refused(
    tmp_path: Path, setting: str, value: float, sentence: str
) -> None:
    path = write_transformers(tmp_path) / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), setting: value}))
    with pytest.raises(ModelError, match=sentence):
        coca.load(tmp_path, device="cpu")

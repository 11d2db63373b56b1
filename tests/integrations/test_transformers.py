"""A folder of `coca export --format huggingface`, loaded by the real library, offline."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers; run `make test-integrations`")

from transformers import AutoModel, AutoProcessor

import coca
from coca.core.errors import ConfigError
from coca.release.export import export
from coca.release.huggingface import add_auto_map
from tiny_data import image_bytes
from tiny_model import write_model

TEXTS = ["a cat", "the red car on the road"]


@pytest.fixture(scope="module", params=[False, True], ids=["fp32", "fp16"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("huggingface")
    made = export(write_model(folder / "model"), folder / "out", half=request.param)
    add_auto_map(made)
    return made


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_auto_classes_give_the_results_of_the_predictor(folder: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    load: Any = AutoProcessor.from_pretrained
    processor = load(folder, trust_remote_code=True)
    predictor = coca.load(folder, device="cpu", prepack=False)
    images = [image_bytes(number) for number in range(3)]
    inputs = processor(images=images, text=TEXTS)
    with torch.no_grad():
        outputs = model(**inputs)
        alone = model.get_text_features(**processor(text=TEXTS))
    expected = predictor.embed_images(images), predictor.embed_texts(TEXTS)
    np.testing.assert_allclose(outputs.image_embeds, expected[0], atol=1e-5)
    np.testing.assert_allclose(outputs.text_embeds, expected[1], atol=1e-5)
    np.testing.assert_allclose(alone, expected[1], atol=1e-5)
    logits = predictor.logit_scale * expected[0] @ expected[1].T
    np.testing.assert_allclose(outputs.logits_per_image, logits, atol=1e-3)
    np.testing.assert_array_equal(outputs.logits_per_text, outputs.logits_per_image.T)
    captions = processor.batch_decode(model.generate(inputs["pixel_values"], num_beams=2))
    assert captions == [one.text for one in predictor.caption(images, num_beams=2)]
    assert model.dtype == torch.float32
    # What transformers saves, it loads again.
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    again = type(model).from_pretrained(tmp_path / "again")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)


def test_the_folder_keeps_its_fingerprint(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    assert content["auto_map"]["AutoModel"] == "coca_classes.CoCaModel"
    fingerprint = coca.load(folder, device="cpu", prepack=False).fingerprint
    add_auto_map(folder)
    assert coca.load(folder, device="cpu", prepack=False).fingerprint == fingerprint


@pytest.mark.filterwarnings("ignore")
def test_missing_inputs_are_an_error(folder: Path) -> None:
    from coca.integrations.transformers import CoCaModel, CoCaProcessor

    with pytest.raises(ConfigError, match="images, text or both, got neither"):
        CoCaProcessor.from_pretrained(folder)()
    with pytest.raises(ConfigError, match="input_ids or both, got neither"):
        CoCaModel.from_pretrained(folder)()

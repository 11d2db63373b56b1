import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import coca
from coca.core.errors import ConfigError, ModelError
from coca.inference.predictor import Predictor, fingerprint
from coca.processing.tokenizer import Tokenizer
from tiny_data import CAPTIONS, picture
from tiny_model import write_model


def test_a_folder_is_all_that_it_takes(folder: Path, predictor: Predictor) -> None:
    again = coca.load(str(folder))
    assert again.fingerprint == predictor.fingerprint == fingerprint(folder)
    assert again.source == str(folder)
    vectors = again.embed_images(picture(0))
    np.testing.assert_allclose(vectors, predictor.embed_images(picture(0)), atol=1e-5)


def test_a_run_stands_for_the_model_within(tmp_path: Path) -> None:
    write_model(tmp_path / "run" / "model")
    assert coca.load(tmp_path / "run").source == str(tmp_path / "run" / "model")


def test_equal_models_have_equal_fingerprints(folder: Path, tmp_path: Path) -> None:
    assert fingerprint(write_model(tmp_path)) == fingerprint(folder)


def test_other_weights_have_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    assert fingerprint(write_model(tmp_path, seed=1)) != fingerprint(folder)


def test_another_tokenizer_has_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    write_model(tmp_path)
    Tokenizer.train([*CAPTIONS, "other"], vocab_size=280).save(tmp_path / "tokenizer.json")
    assert fingerprint(tmp_path) != fingerprint(folder)


def test_another_processor_has_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    assert fingerprint(write_model(tmp_path, image_size=20)) != fingerprint(folder)


def test_pictures_may_be_larger_than_the_model_was_made_for(tmp_path: Path) -> None:
    larger = coca.load(write_model(tmp_path, image_size=20))
    assert np.isfinite(larger.embed_images(picture(0))).all()


@pytest.mark.parametrize("name", ["processor.json", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (write_model(tmp_path) / name).unlink()
    with pytest.raises(ModelError, match=name):
        coca.load(tmp_path)
    with pytest.raises(ModelError, match=name):
        fingerprint(tmp_path)


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no model folder"):
        coca.load(tmp_path / "nowhere")


def test_files_of_different_models_are_refused_with_every_fault(tmp_path: Path) -> None:
    write_model(tmp_path, image_size=18, context=17)
    Tokenizer.train([*CAPTIONS, "some longer words and others"], vocab_size=310).save(
        tmp_path / "tokenizer.json"
    )
    with pytest.raises(ModelError) as caught:
        coca.load(tmp_path)
    for fault in ("the tokenizer knows 310 words", "captions of 17 tokens", "pictures of 18 px"):
        assert fault in str(caught.value)


def test_an_unknown_precision_is_refused(folder: Path) -> None:
    precision: Any = "int8"
    with pytest.raises(ConfigError, match="precision 'int8' is unknown; choose one of fp32"):
        # Past the type checks of the tests, as a caller without them would come.
        inspect.unwrap(coca.load)(folder, precision=precision)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(folder: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used here"):
        coca.load(folder, device=device)


def test_without_a_device_the_accelerator_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No accelerator on the machine of the tests: "cpu" stands for one.
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cpu"))
    assert coca.load(folder).embed_dim == 24
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert coca.load(folder).embed_dim == 24

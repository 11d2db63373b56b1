"""Loading of models by name."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import coca
from coca.core.config.execution import Execution
from coca.core.errors import ConfigError, ModelError
from coca.model.pretrained import resolve_precision
from coca.model.shipped import DEFAULT_MODEL, FINGERPRINTS, shipped
from coca.predict import loading
from coca.predict.loading import load_to_index
from coca.predict.onnx_predictor import OnnxPredictor
from coca.predict.open_weights import model_folder
from coca.predict.torch_loading import fingerprint, load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.processing.caption_words import WITHHELD, words_of
from coca.processing.tokenizer import Tokenizer
from tiny_data import CAPTIONS, image_bytes
from tiny_model import write_model
from tiny_openclip import WEIGHTS, write_open_clip


def test_a_folder_is_all_that_it_takes(folder: Path, predictor: TorchPredictor) -> None:
    again = coca.load(str(folder))
    assert again.fingerprint == predictor.fingerprint == fingerprint(folder)
    assert again.source == str(folder)
    vectors = again.embed_images(image_bytes(0))
    np.testing.assert_allclose(vectors, predictor.embed_images(image_bytes(0)), atol=1e-5)


def test_the_fingerprint_follows_weights_processor_and_tokenizer(
    folder: Path, tmp_path: Path
) -> None:
    assert fingerprint(write_model(tmp_path / "same")) == fingerprint(folder)
    assert fingerprint(write_model(tmp_path / "weights", seed=1)) != fingerprint(folder)
    assert fingerprint(write_model(tmp_path / "image", image_size=20)) != fingerprint(folder)
    tokenizer = write_model(tmp_path / "words") / "tokenizer.json"
    Tokenizer.train([*CAPTIONS, "other"], vocab_size=280).save(tokenizer)
    assert fingerprint(tokenizer.parent) != fingerprint(folder)


def test_another_configuration_has_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    config = write_model(tmp_path) / "config.json"
    content = json.loads(config.read_text())
    content["model"]["text"]["pad_id"] = 5
    config.write_text(json.dumps(content))
    changed = fingerprint(tmp_path)
    assert changed != fingerprint(folder)
    # The weights are the same, and so are the digits that older collections carry.
    assert changed[:16] == fingerprint(folder)[:16]


def test_a_setting_at_its_default_may_be_missing(folder: Path, tmp_path: Path) -> None:
    config = write_model(tmp_path) / "config.json"
    content = json.loads(config.read_text())
    assert content["model"].pop("head") is None
    config.write_text(json.dumps(content))
    assert fingerprint(tmp_path) == fingerprint(folder)


@pytest.mark.parametrize("name", shipped())
def test_the_card_of_a_shipped_model_states_its_fingerprint(name: str) -> None:
    home = shipped()[name]
    assert f"| fingerprint | `{fingerprint(home)}` |" in (home / "README.md").read_text()
    assert FINGERPRINTS[name] == fingerprint(home)


@pytest.mark.skipif(not shipped(), reason="no weights are in this checkout")
def test_the_default_model_captions_with_the_words_of_its_list() -> None:
    predictor = load_coca("everyday", device="cpu")
    words, tokenizer = predictor.processor.caption_words, predictor.processor.tokenizer
    assert words is not None
    assert [
        word for word in words.words if tokenizer.decode(tokenizer.encode_prompt(word)) != word
    ] == []
    assert words.words & WITHHELD == words.withheld
    for best in predictor.caption([image_bytes(number) for number in range(4)]):
        assert set(words_of(best.text)) <= set(words.chosen("polite"))


def test_shipped_models_load_by_their_name_and_errors_list_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coca.model.shipped.resources.files", lambda _: tmp_path)
    for name in ("tiny", "larger"):
        write_model(tmp_path / "weights" / name)
    (tmp_path / "weights" / "no model").mkdir()
    assert list(shipped()) == ["larger", "tiny"]
    assert coca.load("tiny").source == str(tmp_path / "weights" / "tiny")
    with pytest.raises(ModelError, match=r"tinny is not a model folder.*shipped: larger, tiny$"):
        coca.load("tinny")
    for name, form in (
        ("openai/clip-vit-base-patch32", "hf:openai/clip-vit-base-patch32"),
        ("SigLIP2", "hf:google/siglip2-base-patch16-224"),
    ):
        with pytest.raises(ModelError, match=f"; use {form}; shipped"):
            coca.load(name)


@pytest.mark.skipif(not shipped(), reason="no weights are in this checkout")
@pytest.mark.parametrize(
    ("file", "before"),
    [
        ("model.safetensors", b""),
        ("tokenizer.json", b'"cat'),
        ("processor.json", b'"version": 1'),
        ("processor.json", b"0.5"),
        ("config.json", b'"initial_temperature": 0.0'),
    ],
)
def test_a_shipped_model_with_a_flipped_bit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, before: bytes
) -> None:
    path = tmp_path / "weights" / "everyday" / file
    shutil.copytree(shipped()["everyday"], path.parent)
    monkeypatch.setattr("coca.model.shipped.resources.files", lambda _: tmp_path)
    coca.load("everyday")
    content = bytearray(path.read_bytes())
    assert before in content
    content[content.index(before) + len(before) - 1 if before else -1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"is damaged|format version 0|no(t a)? tokenizer.json"):
        coca.load("everyday")


def test_a_model_without_a_name_is_the_default_model() -> None:
    assert coca.load().source == str(shipped()[DEFAULT_MODEL])


def test_a_folder_comes_before_a_shipped_model_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "everyday")
    assert model_folder("everyday") == Path("everyday")


@pytest.fixture
def open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_open_clip(tmp_path / "theirs")


def test_weights_of_open_clip_load_from_a_file_or_its_folder(
    open_clip: Path, tmp_path: Path
) -> None:
    by_file, by_folder = coca.load(open_clip / WEIGHTS), coca.load(open_clip)
    assert by_file.fingerprint == by_folder.fingerprint
    assert Path(by_file.source).is_relative_to(tmp_path / "cache" / "coca" / "models")
    vectors = by_file.embed_images([image_bytes(0), image_bytes(1)])
    assert vectors.shape == (2, 64)
    assert by_file.embed_texts("the cat").shape == (1, 64)
    # The collection of a search names the folder, which loads again.
    assert coca.load(by_file.source).fingerprint == by_file.fingerprint


def test_warnings_are_logged_at_every_load(
    open_clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = coca.load(open_clip)
    assert caplog.messages == []
    (Path(loaded.source) / "source.json").write_text(
        json.dumps({"source": "hf:some/model", "caveat": "captions only"})
    )
    coca.load(open_clip)
    assert caplog.messages == ["hf:some/model: captions only"]


def test_files_of_the_two_architectures_do_not_mix(
    open_clip: Path, folder: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(coca.load(open_clip).source, mixed)
    for name in ("tokenizer.json", "processor.json"):
        shutil.copy(folder / name, mixed / name)
    with pytest.raises(ModelError, match="puts captions between ids 1 and 2") as caught:
        coca.load(mixed)
    assert "captions of 16 tokens" in str(caught.value)
    state = json.loads((mixed / "processor.json").read_text())
    (mixed / "processor.json").write_text(
        json.dumps(state | {"image": {**state["image"], "image_size": 24}})
    )
    with pytest.raises(ModelError, match="images of 24 px, the model reads 16"):
        coca.load(mixed)


@pytest.mark.slow
@pytest.mark.skipif(not shipped(), reason="no weights are in this checkout")
def test_the_shipped_model_embeds_in_a_fresh_process() -> None:
    program = (
        "import sys\n"
        "import coca\n"
        "vectors = coca.load('everyday', device='cpu').embed_texts(['a cat'])\n"
        "print(vectors.shape, *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("(1, ")
    # Each of them takes a second or more to import.
    assert {"torch._dynamo", "torch._inductor", "pymilvus"} & set(done.stdout.split()) == set()


@pytest.mark.parametrize("name", ["processor.json", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (write_model(tmp_path) / name).unlink()
    with pytest.raises(ModelError, match=name):
        coca.load(tmp_path)
    with pytest.raises(ModelError, match=name):
        fingerprint(tmp_path)


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a model folder"):
        coca.load(tmp_path / "nowhere")


def test_files_of_different_models_are_refused_with_every_fault(tmp_path: Path) -> None:
    write_model(tmp_path, image_size=18, context=17)
    Tokenizer.train([*CAPTIONS, "some longer words and others"], vocab_size=310).save(
        tmp_path / "tokenizer.json"
    )
    with pytest.raises(ModelError) as caught:
        coca.load(tmp_path)
    for fault in ("the tokenizer has 310 tokens", "captions of 17 tokens", "images of 18 px"):
        assert fault in str(caught.value)


def test_an_unknown_precision_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="precision 'int4' is unknown; choose one of auto, fp32"):
        # Past the type checks of the tests, as a caller without them would come.
        inspect.unwrap(coca.load)(folder, precision=cast("Any", "int4"))


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta"])
def test_a_device_that_is_not_here_is_refused(folder: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{device}' .* cpu can$") as caught:
        coca.load(folder, device=device)
    assert len(str(caught.value)) < 300


def test_a_tokenizer_with_an_exponential_pattern_is_one_sentence(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    content["pre_tokenizer"] = {**pattern, "invert": False}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json has the regular expression '\(a\+\)\+"):
        coca.load(folder)


def test_auto_precision_is_the_faster_one_of_the_device(folder: Path) -> None:
    faster = resolve_precision("auto", torch.device("cpu"))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[faster]
    loaded = load_coca(folder, device="cpu", precision="auto")
    assert {weight.dtype for weight in loaded.model.parameters()} == {dtype}


@pytest.mark.parametrize("device", [None, "cpu"])
def test_many_images_go_to_onnx_runtime_on_the_cpu_alone(device: str | None) -> None:
    fast = load_to_index("everyday", Execution(device=device))
    slow = coca.load("everyday", device="cpu")
    assert isinstance(fast, OnnxPredictor) == (
        device == "cpu" or not torch.accelerator.is_available()
    )
    assert fast.fingerprint == slow.fingerprint
    images = [np.full((64, 64, 3), level, np.uint8) for level in (0, 90, 255)]
    np.testing.assert_allclose(fast.embed_images(images), slow.embed_images(images), atol=1e-5)


def test_other_precisions_and_accelerators_index_with_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(load_to_index("everyday", Execution(precision="bf16")), TorchPredictor)
    monkeypatch.setattr(loading, "_has_accelerator", lambda: True)
    assert isinstance(load_to_index("everyday"), TorchPredictor)
    assert isinstance(load_to_index("everyday", Execution(device="cpu")), OnnxPredictor)

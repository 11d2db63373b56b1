import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from coca.core.errors import ModelError
from coca.model.coca import CoCa
from coca.model.openclip.openclip import OpenCLIP
from coca.model.pretrained import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    assemble,
    load_model,
    model_description,
    save_model,
    weights_digest,
)
from tiny import caption_logits, tiny_config
from tiny_openclip import ours_of, peer


@pytest.fixture
def folder(tmp_path: Path, tiny_model: CoCa) -> Path:
    save_model(tmp_path / "new/model", tiny_model)
    return tmp_path / "new/model"


def test_a_model_is_loaded_from_its_folder_alone(
    folder: Path, tiny_model: CoCa, images: Tensor, tokens: Tensor
) -> None:
    loaded = load_model(folder)
    assert loaded.config == tiny_model.config
    assert not loaded.training
    assert torch.equal(loaded.encode_image(images), tiny_model.encode_image(images))
    assert torch.equal(
        caption_logits(loaded, images, tokens), caption_logits(tiny_model, images, tokens)
    )


def test_a_tied_model_is_loaded_with_one_matrix(tmp_path: Path) -> None:
    config = tiny_config()
    tied = CoCa(
        tiny_config(text=type(config.text)(**{**vars(config.text), "tie_embeddings": True}))
    )
    save_model(tmp_path, tied)
    assert torch.equal(load_model(tmp_path).vocabulary_weight, tied.vocabulary_weight)


def test_weights_can_be_loaded_in_half_precision(folder: Path) -> None:
    model = load_model(folder, dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_weights_may_be_stored_in_half_and_load_in_full_precision(
    tmp_path: Path, folder: Path, tiny_model: CoCa, stored: torch.dtype
) -> None:
    save_model(tmp_path / "half", tiny_model, dtype=stored)
    sizes = [(saved / WEIGHTS_FILE).stat().st_size for saved in (tmp_path / "half", folder)]
    assert sizes[0] < 0.6 * sizes[1]
    loaded = load_model(tmp_path / "half").state_dict()
    for name, tensor in tiny_model.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.to(stored).float())


def test_a_model_of_openclip_is_loaded_as_openclip(tmp_path: Path) -> None:
    model = ours_of(peer())
    save_model(tmp_path, model)
    assert json.loads((tmp_path / CONFIG_FILE).read_text())["architecture"] == "openclip"
    loaded = load_model(tmp_path)
    assert isinstance(loaded, OpenCLIP)
    assert loaded.config == model.config
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded.encode_image(images), model.encode_image(images))
    counts = model_description(model.config)["parameters"]
    assert counts["total"] == sum(weight.numel() for weight in model.parameters())


def test_weights_in_memory_become_a_model_if_they_fit(tiny_model: CoCa) -> None:
    state = tiny_model.state_dict()
    assert torch.equal(
        assemble(tiny_model.config, state, source="here").state_dict()["log_scale"],
        state["log_scale"],
    )
    with pytest.raises(ModelError, match=r"here: log_scale has shape \(3,\)"):
        assemble(tiny_model.config, {**state, "log_scale": torch.zeros(3)}, source="here")


def test_the_folder_holds_plain_files_and_no_pickle(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == [CONFIG_FILE, WEIGHTS_FILE, "modules.json"]
    assert json.loads((folder / CONFIG_FILE).read_text())["model"]["embed_dim"] == 24


def test_equal_weights_have_equal_digests_and_other_weights_another(
    folder: Path, tmp_path: Path, tiny_model: CoCa
) -> None:
    save_model(tmp_path / "again", tiny_model)
    assert weights_digest(tmp_path / "again") == weights_digest(folder)
    with torch.no_grad():
        tiny_model.log_scale.add_(1e-6)
    save_model(tmp_path / "other", tiny_model)
    assert weights_digest(tmp_path / "other") != weights_digest(folder)


def test_a_description_needs_no_weights() -> None:
    description = model_description(tiny_config())
    assert description["config"]["embed_dim"] == 24
    assert description["parameters"]["total"] == sum(
        weight.numel() for weight in CoCa(tiny_config()).parameters()
    )


def damage(folder: Path, kind: str) -> None:
    weights, config = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    state = load_file(weights)
    document = json.loads(config.read_text())
    match kind:
        case "no config":
            config.unlink()
        case "no weights":
            weights.unlink()
        case "config no json":
            config.write_text("{")
        case "config no section":
            config.write_text("[]")
        case "newer format":
            config.write_text(json.dumps({**document, "format_version": 99}))
        case "unknown field":
            document["model"]["depth"] = 3
            config.write_text(json.dumps(document))
        case "kind of a plug-in":
            document["model"]["image"]["kind"] = "mine"
            config.write_text(json.dumps(document))
        case "impossible shape":
            document["model"]["image"]["patch_size"] = 5
            config.write_text(json.dumps(document))
        case "no architecture":
            assert document.pop("architecture") == "coca"
            config.write_text(json.dumps(document))
        case "unknown architecture":
            config.write_text(json.dumps({**document, "architecture": ["coca3"]}))
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "not safetensors":
            weights.write_bytes(b"\x80\x04 pickle me")
        case "tensor missing":
            del state["log_scale"]
            save_file(state, weights)
        case "tensor unknown":
            save_file({**state, "surprise": torch.zeros(1)}, weights)
        case "wrong shape":
            save_file({**state, "log_scale": torch.zeros(2)}, weights)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no config", "has no config.json"),
        ("no weights", "weights are missing"),
        ("config no json", "cannot be read as JSON"),
        ("config no section", "no section `model`"),
        ("newer format", "reads 1"),
        ("no architecture", r"the architecture 'None'; .* builds coca and openclip"),
        ("unknown architecture", "builds coca and openclip"),
        ("unknown field", "depth"),
        ("kind of a plug-in", r"'mine' is unknown.*needs its package, or --plugin FILE.py$"),
        ("impossible shape", "patch_size 5 does not divide"),
        ("truncated", "damaged"),
        ("not safetensors", "damaged or no safetensors"),
        ("tensor missing", "1 tensors missing"),
        ("tensor unknown", "surprise"),
        ("wrong shape", r"log_scale has shape \(2,\)"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(folder: Path, kind: str, words: str) -> None:
    damage(folder, kind)
    with pytest.raises(ModelError, match=words):
        load_model(folder)


def test_a_run_names_the_plugin_file_of_its_model_and_imports_none(folder: Path) -> None:
    damage(folder, "kind of a plug-in")
    plugin = folder.parent / "my parts.py"
    plugin.write_text("raise RuntimeError('a model folder must not run code')")
    for plugins, words in (
        (
            {str(plugin): "a1" * 32},
            rf"its run had --plugin '{plugin}' \(SHA-256 a1a1a1a1a1a1a1a1\)",
        ),
        ([], "needs its package, or --plugin FILE.py$"),
    ):
        record: Any = {"starts": [{}, {"plugins": plugins}]}
        (folder.parent / "record.json").write_text(json.dumps(record))
        with pytest.raises(ModelError, match=words):
            load_model(folder)


def edit(weights: Path, **changes: torch.Tensor) -> None:
    """Change tensors of a file whose header stays as it is."""
    with safe_open(weights, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    save_file(state | changes, weights, metadata=metadata)


def test_weights_that_differ_from_the_digest_in_their_header_are_refused(folder: Path) -> None:
    assert len(weights_digest(folder)) == 64
    edit(folder / WEIGHTS_FILE, log_scale=torch.tensor(1.5))
    with pytest.raises(ModelError, match="weights differ from the digest in its header"):
        weights_digest(folder)


def test_edited_weights_without_that_digest_have_another(folder: Path) -> None:
    before = weights_digest(folder)
    state = load_file(folder / WEIGHTS_FILE)
    save_file(state, folder / WEIGHTS_FILE)
    assert weights_digest(folder) == before
    save_file(state | {"log_scale": torch.tensor(1.5)}, folder / WEIGHTS_FILE)
    assert weights_digest(folder) != before


def test_a_flipped_bit_is_refused(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(ModelError, match="is damaged"):
        weights_digest(folder)


def test_a_foreign_file_has_a_digest_and_a_missing_one_none(folder: Path, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, folder / WEIGHTS_FILE)
    assert len(weights_digest(folder)) == 64
    with pytest.raises(ModelError, match="cannot be read"):
        weights_digest(tmp_path / "nowhere")

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import coca
from coca.core.errors import ModelError
from coca.data.sources.folder import FolderConfig
from coca.model.coca_config import CoCaConfig
from coca.model.encoders.efficientnet import EfficientNetLiteConfig
from coca.model.pretrained import MODULES_FILE, build, load_model, save_model
from coca.predict import open_weights
from coca.predict.model_kinds import MODEL_FILES
from coca.release.export import export, push_to_hub
from coca.release.model_card import CardConfig
from coca.tasks import TaskConfig
from coca.workflows.evaluation.evaluate import evaluate
from folder_hub import FolderHub
from tiny_data import image_bytes
from tiny_model import write_model

CARD = "README.md"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run leaves: the model in it, its recipe and its record."""
    run = tmp_path / "run"
    write_model(run / "model")
    sources = [
        {"name": "cats", "kind": "folder", "path": "/home/me/cats", "weight": 3.0},
        {"name": "", "kind": "shards", "path": ["/home/me/a.tar"], "weight": 1.0},
    ]
    recipe = {
        "seed": 7,
        "train": {"steps": 3000},
        "data": {"sources": sources, "loader": {"batch_size": 128}},
    }
    start = {
        "code": {"commit": "0123456789abcdef", "dirty": True, "diff": None},
        "versions": {"torch": "2.13"},
        "machine": {"cores": 2, "cpu": "some CPU"},
        "data": "fedcba",
        "started": "2026-11-24T18:08:55+00:00",
        "argv": ["/home/me/coca"],
    }
    (run / "recipe.json").write_text(json.dumps(recipe))
    (run / "record.json").write_text(json.dumps({"starts": [start]}))
    return run


@pytest.fixture
def scores(run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(image_bytes(number))
        (folder / f"{number}.txt").write_text(f"image {number}", encoding="utf-8")
    task = TaskConfig(task="retrieval", data=FolderConfig(path=str(folder)))
    evaluate(run, [task], out=tmp_path / "scores")
    return tmp_path / "scores"


def test_the_folder_holds_a_model_its_card_and_nothing_of_the_machine(
    run: Path, scores: Path, tmp_path: Path
) -> None:
    out = export(
        run, tmp_path / "shared", card=CardConfig(title="Cats", limits="No dogs."), results=[scores]
    )
    assert sorted(path.name for path in out.iterdir()) == sorted([*MODEL_FILES, MODULES_FILE, CARD])
    card = (out / CARD).read_text(encoding="utf-8")
    for text in (
        "# Cats",
        "No dogs.",
        "| cats | 75% of the samples | not recorded |",
        "| shards | 25% of the samples |",
        "| steps | 3,000 |",
        "| commit | `0123456789ab` with changes |",
        "retrieval on 4 samples",
        "| image_to_text_recall@1 |",
    ):
        assert text in card
    assert "/home/me" not in card
    assert str(tmp_path) not in card
    np.testing.assert_array_equal(
        coca.load(out).embed_texts(["a cat"]), coca.load(run).embed_texts(["a cat"])
    )


def test_the_licence_is_the_one_that_is_stated_and_else_unknown(run: Path, tmp_path: Path) -> None:
    first = export(run, tmp_path / "first")
    assert "license: unknown" in (first / CARD).read_text(encoding="utf-8")
    stated = export(run, tmp_path / "stated", card=CardConfig(licence="cc-by-4.0"))
    again = export(stated, tmp_path / "again")
    assert "license: cc-by-4.0" in (again / CARD).read_text(encoding="utf-8")
    shipped = export("everyday", tmp_path / "everyday")
    assert "license: other" in (shipped / CARD).read_text(encoding="utf-8")


def test_half_of_the_bytes_give_nearly_the_same_vectors(
    run: Path, scores: Path, tmp_path: Path
) -> None:
    out = export(run, tmp_path / "shared", half=True, results=[scores])
    stored = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    np.testing.assert_allclose(
        coca.load(out).embed_images([image_bytes(0)]),
        coca.load(run).embed_images([image_bytes(0)]),
        atol=1e-2,
    )
    assert "before the weights went into 16 bits" in (out / CARD).read_text(encoding="utf-8")


@pytest.mark.parametrize("tokens", [0, 1])
def test_the_classifier_of_the_encoder_is_left_out_unless_the_model_reads_it(
    tmp_path: Path, tokens: int
) -> None:
    folder = write_model(tmp_path / "model")
    config = load_model(folder).config
    assert isinstance(config, CoCaConfig)
    width = config.image.width
    image = EfficientNetLiteConfig(image_size=32, width=width, classes=5, class_tokens=tokens)
    torch.manual_seed(0)
    save_model(folder, build(config.replace(image=image)))
    whole, shared = load_model(folder), load_model(export(folder, tmp_path / "shared"))
    assert shared.image_encoder.has_classifier is bool(tokens)
    removed = whole.state_dict().keys() - shared.state_dict().keys()
    parts = {name.rpartition(".")[0] for name in removed}
    assert parts == (set() if tokens else {"image_encoder.backbone.classifier"})
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found, wanted = (it.pool(it.encode(images)) for it in (shared, whole))
    assert all(map(torch.equal, found, wanted))


def test_the_card_has_the_scores_of_its_own_run(run: Path, scores: Path, tmp_path: Path) -> None:
    scores.rename(run / "scores")
    card = (export(run, tmp_path / "out") / CARD).read_text()
    assert "retrieval on 4 samples" in card
    report = run / "scores" / "report.json"
    report.write_text(report.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    assert "retrieval on 4" not in (export(run, tmp_path / "out") / CARD).read_text()


def test_scores_of_another_model_are_refused(run: Path, scores: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="contains scores of the model"):
        export(other, tmp_path / "shared", results=[scores])
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize("content", ["{", "{}", '{"fingerprint": "a", "tasks": [{}]}'])
def test_a_file_without_scores_is_refused(run: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(ModelError, match=r"s\.json has no scores"):
        export(run, tmp_path / "shared", results=[tmp_path / "s.json"])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHub:
    hub = FolderHub(tmp_path / "hub")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(open_weights, "HuggingFace", lambda: hub)
    return hub


def test_what_is_pushed_comes_back_the_same(run: Path, hub: FolderHub, tmp_path: Path) -> None:
    out = export(run, tmp_path / "shared", card=CardConfig(load_as="hf:me/cats"))
    name = push_to_hub(out, "me/cats", hub=hub)
    assert name == "hf:me/cats"
    assert (hub.root / "me" / "cats" / CARD).is_file()
    wanted = coca.load(run)
    for loaded in (coca.load(name), coca.load(out)):
        assert loaded.fingerprint == wanted.fingerprint
        np.testing.assert_array_equal(loaded.embed_texts("a cat"), wanted.embed_texts("a cat"))


def test_a_revision_is_asked_for(run: Path, hub: FolderHub) -> None:
    push_to_hub(export(run, hub.root / "me" / "cats@v2"), "me/cats", hub=hub)
    assert coca.load("hf:me/cats@v2").source.endswith("hf--me--cats--v2")


def test_a_folder_without_a_card_is_not_pushed(run: Path, hub: FolderHub) -> None:
    with pytest.raises(ModelError, match="`coca export` writes one"):
        push_to_hub(run / "model", "me/cats", hub=hub)

"""Captioners on frozen image-text models of both libraries: trained, saved, loaded and refused."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import coca
import tiny_image_text
from coca.core.config.frozen_config import load_config
from coca.core.errors import CocaError, ConfigError, ModelError, UnsupportedError
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig
from coca.predict import tower as tower_module
from coca.predict.image_text_predictor import ImageTextPredictor
from coca.predict.torch_loading import load_coca
from coca.predict.tower import TowerConfig, TowerEncoder, TowerPredictor, load_tower
from coca.workflows.collections.collection_model import open_search
from coca.workflows.collections.index import index_images
from coca.workflows.training.finetune import finetune
from coca.workflows.training.pretrain import PretrainConfig, pretrain
from tiny_image_text import write_openclip, write_transformers
from tiny_run import read_metrics, same
from tiny_workflows import (
    NAMES,
    RECIPE,
    finetune_recipe,
    stopping_at,
    write_classes,
    write_squares,
)

pytest.importorskip("open_clip", reason="the extra openclip is not installed")
pytest.importorskip("transformers", reason="the extra transformers is not installed")


class Tower(NamedTuple):
    write: Callable[[Path], Path]
    image: dict[str, Any]
    embed_dim: int
    resize: str = "crop"


TOWERS = {
    "openclip-clip": Tower(write_openclip, {"kind": "openclip", "width": 64}, 32),
    "openclip-siglip": Tower(
        partial(write_openclip, family="siglip"), {"kind": "openclip", "width": 24}, 64, "squash"
    ),
    "hf-clip": Tower(write_transformers, {"kind": "hf", "patch_size": 8, "width": 32}, 20),
    "hf-siglip": Tower(
        partial(write_transformers, family="siglip"),
        {"kind": "hf", "patch_size": 8, "width": 40},
        32,
        "squash",
    ),
}
"""Each library with CLIP and SigLIP; two have the width of the tokens, and two are projected."""


class Trained(NamedTuple):
    tower: Path
    photos: Path
    root: Path
    name: str

    def config(self, run: str, *changes: str, embeddings: str = "tower") -> PretrainConfig:
        about = TOWERS[self.name]
        image = {
            "name": str(self.tower),
            "image_size": 32,
            "embeddings": embeddings,
            **about.image,
        }
        size = about.embed_dim if embeddings == "tower" else 32
        model = {**RECIPE["model"], "image": image, "embed_dim": size}
        weight = 0 if embeddings == "tower" else 1
        layer = {**RECIPE, "model": model, "loss": {"contrastive_weight": weight}}
        own = (
            f"run={self.root / run}",
            f"data.sources.0.path={self.photos}",
            f"data.resize={about.resize}",
            f"data.features.folder={self.root / 'features'}",
        )
        return load_config(PretrainConfig, layer, overrides=[*own, *changes])

    @property
    def files(self) -> list[Path]:
        return [self.photos / f"{number}.png" for number in range(8)]


@pytest.fixture(scope="module", params=TOWERS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of each tower, whose embeddings are kept."""
    root = tmp_path_factory.mktemp("tower")
    photos = write_squares(root / "photos")
    for path in photos.glob("*.png"):
        # The side of the tower's input, so that no resizing differs between the libraries.
        Image.open(path).resize((32, 32)).save(path)
    tower = TOWERS[request.param].write(root / "model")
    made = Trained(tower, photos, root, request.param)
    pretrain(made.config("run", "train.steps=60"))
    return made


one_tower = pytest.mark.parametrize("trained", ["hf-siglip"], indirect=True)
"""For laws that do not depend on the library."""


@pytest.fixture(scope="module")
def predictor(trained: Trained) -> TowerPredictor:
    loaded = coca.load(trained.root / "run", device="cpu")
    assert isinstance(loaded, TowerPredictor)
    return loaded


@pytest.fixture(scope="module")
def tower(trained: Trained) -> ImageTextPredictor:
    loaded = coca.load(trained.tower, device="cpu", prepack=False)
    assert isinstance(loaded, ImageTextPredictor)
    return loaded


def test_training_lowers_the_loss_and_captions_name_the_colours(
    trained: Trained, predictor: TowerPredictor
) -> None:
    losses = [row["captioning"] for row in read_metrics(trained.root / "run")]
    assert losses[-1] < losses[0] / 3
    written = {caption.text for caption in predictor.caption(trained.files[:4])}
    assert len(written & set(NAMES)) >= 2


def test_the_preprocessing_of_a_tower_is_read_without_its_weights(
    trained: Trained, tower: ImageTextPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> ImageTextPredictor:
        raise AssertionError(f"{folder} is loaded")

    monkeypatch.setattr("coca.predict.tower.load_tower", fail)
    kind = TOWERS[trained.name].image["kind"]
    found = TowerConfig(kind=kind, name=str(trained.tower), width=8).normalization()
    settings = tower.image_settings
    assert found == (settings.mean, settings.std, settings.interpolation)


def test_the_tokens_are_those_of_the_library(trained: Trained, tower: ImageTextPredictor) -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    library: Any = tower.model
    with torch.no_grad():
        tokens, pooled = tower.image_tokens(pixels), tower.image_features(pixels)
        if trained.name == "openclip-clip":
            library.visual.output_tokens = True
            expected = library.visual(pixels)[1]
            library.visual.output_tokens = False
        elif trained.name == "openclip-siglip":
            expected = library.visual.trunk.forward_features(pixels)
            expected = expected[:, library.visual.trunk.num_prefix_tokens :]
        elif trained.name == "hf-clip":
            hidden = library.vision_model(pixels, output_hidden_states=True).hidden_states[-1]
            expected = library.vision_model.post_layernorm(hidden)[:, 1:]
        else:
            # SigLIP's embedding is pooled from these tokens alone.
            torch.testing.assert_close(library.vision_model.head(tokens), pooled)
            expected = library.vision_model(pixels).last_hidden_state
    torch.testing.assert_close(tokens, expected)


def test_vectors_and_fingerprint_are_those_of_the_tower(
    trained: Trained, predictor: TowerPredictor, tower: ImageTextPredictor
) -> None:
    images, texts = trained.files, ["a red square", "", "two dogs " * 30]
    assert np.array_equal(predictor.embed_images(images), tower.embed_images(images))
    assert np.array_equal(predictor.embed_texts(texts), tower.embed_texts(texts))
    prepared = [predictor.prepare_image(path) for path in images]
    assert np.array_equal(predictor.embed_prepared(prepared), tower.embed_images(images))
    for captions in (True, False):
        described = predictor.describe(prepared, captions=captions)
        assert np.array_equal([one.vector for one in described], tower.embed_images(images))
    assert [one.caption for one in predictor.describe(prepared)] == [
        caption.text for caption in predictor.caption(images)
    ]
    with pytest.raises(UnsupportedError, match="no decoder for captions"):
        tower.describe(prepared)
    assert predictor.fingerprint == tower.fingerprint != predictor.model_fingerprint
    assert (predictor.embed_dim, predictor.logit_scale) == (tower.embed_dim, tower.logit_scale)
    assert predictor.max_text_tokens == tower.max_text_tokens
    assert (predictor.has_decoder, tower.has_decoder) == (True, False)
    one, other = (it.classify(images[:2], list(NAMES)) for it in (predictor, tower))
    assert one == other
    short = coca.load(trained.root / "run", device="cpu", dimensions=8)
    assert np.array_equal(
        short.embed_texts(texts),
        coca.load(trained.tower, device="cpu", prepack=False, dimensions=8).embed_texts(texts),
    )


@one_tower
def test_a_run_in_two_parts_equals_the_run_in_one(trained: Trained) -> None:
    pretrain(trained.config("whole"))
    with stopping_at(7):
        stopped = pretrain(trained.config("parts"))
    assert (stopped.step, stopped.interrupted) == (7, True)
    pretrain(trained.config("parts"))
    whole, parts = (load_coca(trained.root / run).model.state_dict() for run in ("whole", "parts"))
    assert same(whole, parts)


@one_tower
def test_training_on_images_needs_no_features(trained: Trained) -> None:
    pretrain(trained.config("images", "data.features=null", "train.steps=4"))
    pretrain(trained.config("cached", "train.steps=4"))
    one, other = (read_metrics(trained.root / run)[0] for run in ("images", "cached"))
    assert one["captioning"] == pytest.approx(other["captioning"], rel=2e-3)


@one_tower
def test_the_checkpoint_has_the_decoder_alone(trained: Trained, tower: ImageTextPredictor) -> None:
    path = trained.root / "run" / "model" / "model.safetensors"
    with safe_open(path, "pt") as file:
        parts = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118
    assert parts == {
        "image_encoder",  # the projection
        "captioning_pooler",
        "unimodal_decoder",
        "multimodal_decoder",
        "vocabulary",
        "log_scale",
    }
    loaded = load_coca(trained.root / "run", precision="bf16")
    assert {it.dtype for it in tower.model.parameters()} == {torch.float32}
    assert isinstance(loaded, TowerPredictor)
    assert {it.dtype for it in loaded.tower.model.parameters()} == {torch.bfloat16}
    assert np.isfinite(loaded.score(trained.files[:2], NAMES)).all()


@one_tower
def test_a_run_reads_its_tower_once(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def counted(folder: Path) -> ImageTextPredictor:
        reads.append(folder)
        return load_tower(folder)

    monkeypatch.setattr(tower_module, "load_tower", counted)
    held_out = {"every": 2, "sources": [{"kind": "folder", "path": str(trained.photos)}]}
    small = ("train.steps=4", "data.features=null", f"eval={json.dumps(held_out)}")
    first = pretrain(trained.config("once", *small))
    assert reads == [trained.tower]
    again = f"init_from={first.model}"
    pretrain(trained.config("again", again, *small))
    assert reads == [trained.tower] * 2
    two, one = (load_coca(trained.root / run, device="cpu") for run in ("once", "again"))
    assert isinstance(two, TowerPredictor)
    assert isinstance(one, TowerPredictor)
    assert two.tower is not one.tower


@one_tower
def test_another_tower_of_that_name_is_refused(trained: Trained, tmp_path: Path) -> None:
    config = load_coca(trained.root / "run").model.config
    assert isinstance(config, CoCaConfig)
    assert isinstance(config.image, TowerConfig)
    other = TOWERS[trained.name].write(tmp_path / "other")
    tokenizer = next(path for path in other.rglob("*.json") if path.is_file())
    tokenizer.write_text(tokenizer.read_text() + " ")
    with pytest.raises(ModelError, match="but the captioner was trained on"):
        CoCa(config.replace(image=config.image.replace(name=str(other))))


@one_tower
def test_the_tower_may_move(trained: Trained, tmp_path: Path) -> None:
    folder, moved = tmp_path / "model", tmp_path / "tower"
    shutil.copytree(trained.root / "run" / "model", folder)
    shutil.copytree(trained.tower, moved)
    content = json.loads((folder / "config.json").read_text())
    content["model"]["image"]["name"] = str(moved)
    (folder / "config.json").write_text(json.dumps(content))
    one, other = load_coca(folder), load_coca(trained.root / "run")
    assert one.fingerprint == other.fingerprint
    assert one.model_fingerprint == other.model_fingerprint
    content["model"]["image"]["name"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"there is no tower in .*gone; set model\.image\.name"):
        load_coca(folder)


@one_tower
def test_a_collection_of_the_tower_is_searched_and_reranked(
    trained: Trained, predictor: TowerPredictor, tower: ImageTextPredictor, tmp_path: Path
) -> None:
    uri = str(tmp_path / "pictures.db")
    index_images([trained.photos], tower, uri=uri)
    with open_search(uri, model=predictor) as engine:
        found = engine.search("red square", limit=4, rerank=8)
    assert len(found) == 4


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["openclip-siglip", "hf-clip"], indirect=True)
def test_coca_may_train_its_own_embeddings_on_the_tokens(trained: Trained) -> None:
    pretrain(trained.config("coca", "train.steps=60", embeddings="coca"))
    losses = [row["loss"] for row in read_metrics(trained.root / "coca")]
    assert losses[-1] < losses[0] / 1.5
    loaded = load_coca(trained.root / "coca")
    assert type(loaded).__name__ == "TorchPredictor"
    found = loaded.classify(trained.files[:4], list(NAMES))
    assert sum(it[0].label == name for it, name in zip(found, NAMES, strict=True)) >= 2
    assert loaded.fingerprint != coca.load(trained.tower, device="cpu").fingerprint


@one_tower
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (("model.image.image_size=64",), "reads images of 32 px; set it to 32"),
        (("model.image.patch_size=4",), r"makes \d x \d tokens of an image of 32 px; set it to"),
        (("model.embed_dim=7",), r"embeddings of the frozen encoder have \d+ numbers; set it to"),
        (("data.resize=pad",), "data.resize is pad and data.trim false, but"),
        (("data.trim=true",), "and data.trim true, but"),
        (("loss.contrastive_weight=1",), "captions to train only; set loss.contrastive_weight"),
        (("model.image.name=nowhere",), "nowhere"),
        (("model.image.fingerprint=abc",), "but the captioner was trained on abc"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    trained: Trained, changes: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(CocaError, match=complaint):
        pretrain(trained.config("refused", *changes))


@one_tower
def test_further_training_keeps_the_embeddings(
    trained: Trained, tower: ImageTextPredictor, tmp_path: Path
) -> None:
    first = trained.root / "run"
    again = pretrain(trained.config("further", f"init_from={first}", "train.steps=3"))
    classes = write_classes(tmp_path / "classes")
    head = finetune(finetune_recipe(first, classes, tmp_path / "head", "train.steps=3"))
    assert head.scores[0].metrics
    answers = load_coca(head.model).classify(trained.files[:2])
    assert len(answers[0]) == 4
    texts = list(NAMES)
    for result in (again, head):
        loaded = load_coca(result.model)
        assert loaded.fingerprint == tower.fingerprint
        assert np.array_equal(loaded.embed_texts(texts), tower.embed_texts(texts))


@one_tower
def test_what_the_tower_cannot_do_is_refused(trained: Trained, predictor: TowerPredictor) -> None:
    with pytest.raises(UnsupportedError, match="embed the frames"):
        predictor.embed_clips([trained.files[:2]])


def test_a_tower_of_images_of_any_shape_is_refused(tmp_path: Path) -> None:
    folder = write_transformers(tmp_path / "naflex", "siglip2")
    with pytest.raises(ConfigError, match="with images of one size, such as SigLIP 2 without"):
        TowerEncoder(TowerConfig(kind="hf", name=str(folder), width=32))


@pytest.mark.parametrize(
    ("write", "settings", "tokens"),
    [
        (partial(write_openclip, family="convnext"), {"patch_size": 32}, 1),
        (partial(write_openclip, family="mobileclip"), {"image_size": 64, "patch_size": 32}, 4),
        (partial(write_transformers, family="chinese_clip"), {"kind": "hf", "patch_size": 8}, 16),
        (partial(write_transformers, family="altclip"), {"kind": "hf", "patch_size": 8}, 16),
    ],
)
def test_further_families_have_a_token_for_each_patch(
    write: Callable[[Path], Path], settings: dict[str, Any], tokens: int, tmp_path: Path
) -> None:
    base: dict[str, Any] = {"kind": "openclip", "image_size": 32, "width": 48}
    config = TowerConfig(name=str(write(tmp_path / "model")), **{**base, **settings})
    encoder = TowerEncoder(config)
    found = encoder(torch.zeros(2, 3, config.image_size, config.image_size))
    assert found.shape == (2, tokens, 48)
    assert config.tokens == tokens


def test_patches_may_leave_a_border(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As those of 14 px in the 384 px of SigLIP So400m.
    vision = {"image_size": 36, "layers": 2, "width": 64, "patch_size": 8}
    odd = {**tiny_image_text.OPENCLIP["clip"], "vision_cfg": vision}
    monkeypatch.setattr(tiny_image_text, "OPENCLIP", {"clip": odd})
    folder = write_openclip(tmp_path / "model")
    config = TowerConfig(kind="openclip", name=str(folder), image_size=36, patch_size=8, width=64)
    assert TowerEncoder(config)(torch.zeros(1, 3, 36, 36)).shape == (1, 16, 64)

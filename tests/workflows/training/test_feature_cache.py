"""Training on cached features of a frozen encoder, compared with training on images."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from coca.core.config.frozen_config import load_config
from coca.core.errors import ConfigError, DataError
from coca.model.encoders.timm import TimmEncoder
from coca.predict.torch_loading import load_coca
from coca.workflows.training.pretrain import PretrainConfig, compute_features, pretrain
from tiny_run import read_metrics, same
from tiny_workflows import RECIPE, stopping_at

AUGMENT = ("data.augment.flip=0.5", "data.augment.color=0.5", "data.features.views=3")
FREEZE = "train.optimizer.freeze=[image_encoder.backbone]"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return path


RESNET = {"kind": "timm", "name": "test_resnet", "image_size": 32, "width": 32}


def recipe(
    root: Path,
    run: str,
    *overrides: str,
    cached: bool = True,
    encoder: dict[str, Any] = RESNET,
    freeze: str = FREEZE,
) -> PretrainConfig:
    layer: dict[str, Any] = {**RECIPE, "model": {**RECIPE["model"], "image": encoder}}
    features = (f"data.features.folder={root / 'features'}",) if cached else ()
    return load_config(
        PretrainConfig,
        layer,
        overrides=[
            f"run={root / run}",
            f"data.sources.0.path={root / 'pictures'}",
            f"encoder_weights.file={root / 'weights.pth'}",
            freeze,
            *features,
            *overrides,
        ],
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_coca(run).model.state_dict())


@contextmanager
def encoder_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts the images that an encoder computes features of."""
    calls: list[int] = []
    features = TimmEncoder.features

    def counted(self: TimmEncoder, images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return features(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(TimmEncoder, "features", counted)
        yield calls


def test_training_on_features_equals_training_on_images_up_to_fp16(
    images: Path, published: Path, tmp_path: Path
) -> None:
    pretrain(recipe(tmp_path, "cached"))
    pretrain(recipe(tmp_path, "plain", cached=False))
    expected = torch.load(published, weights_only=True)
    published.unlink()
    found = weights(tmp_path / "cached")
    for name, tensor in expected.items():
        assert torch.equal(found[f"image_encoder.backbone.{name}"], tensor)
    one, other = (read_metrics(tmp_path / run) for run in ("cached", "plain"))
    for cached, plain in zip(one, other, strict=True):
        assert cached["loss"] == pytest.approx(plain["loss"], rel=1e-3)
    assert load_coca(tmp_path / "cached").model.config == load_coca(tmp_path / "plain").model.config


def test_the_encoder_runs_once_for_each_view_and_never_in_a_step(
    images: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with encoder_calls(monkeypatch) as calls:
        pretrain(recipe(tmp_path, "one", *AUGMENT))
    rows = 12
    # One blank image more, to find the shape of the features.
    assert sum(calls) == rows * 3 + 1
    with encoder_calls(monkeypatch) as calls:
        pretrain(recipe(tmp_path, "two", *AUGMENT, "seed=1"))
    assert sum(calls) == 1


def test_a_run_waits_for_the_features_that_another_is_writing(
    images: Path,
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    compute_features(recipe(tmp_path, "one"))
    (written,) = (tmp_path / "features").iterdir()
    content = written.read_bytes()
    unfinished = written.with_name(f".incomplete-{written.name}")
    written.rename(unfinished)
    with unfinished.open("r+b") as file, encoder_calls(monkeypatch) as calls:
        fcntl.flock(file, fcntl.LOCK_EX)

        def finish_writing(seconds: float) -> None:
            assert "this one waits for it" in caplog.text
            unfinished.rename(written)
            file.close()

        monkeypatch.setattr("coca.workflows.training.feature_cache.time.sleep", finish_writing)
        compute_features(recipe(tmp_path, "two"))
    assert sum(calls) == 1
    assert written.read_bytes() == content


def test_a_run_in_two_parts_equals_the_run_in_one(
    images: Path, published: Path, tmp_path: Path
) -> None:
    pretrain(recipe(tmp_path, "whole", *AUGMENT))
    with stopping_at(7):
        stopped = pretrain(recipe(tmp_path, "parts", *AUGMENT))
    assert stopped.interrupted
    pretrain(recipe(tmp_path, "parts", *AUGMENT))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_other_images_weights_or_augmentation_have_other_files(
    images: Path, published: Path, tmp_path: Path
) -> None:
    def names(*changes: str) -> set[str]:
        return {file.path.name for file in compute_features(recipe(tmp_path, "run", *changes))}

    first = names()
    assert names() == first
    assert names("data.resize=pad") != first
    assert names("data.augment.flip=0.5") != first
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), published)
    assert names() != first


def test_an_unreadable_image_is_replaced_and_reported(
    images: Path, published: Path, tmp_path: Path
) -> None:
    (images / "3.png").write_bytes(b"no image")
    pretrain(recipe(tmp_path, "run", "data.loader.max_bad_fraction=0.9"))
    assert "not_an_image" in (tmp_path / "run" / "bad_samples.jsonl").read_text()


def test_a_damaged_file_stops_the_run(images: Path, published: Path, tmp_path: Path) -> None:
    (file,) = compute_features(recipe(tmp_path, "run"))
    file.path.write_bytes(file.path.read_bytes()[:-7])
    with pytest.raises(DataError, match="`coca data features RECIPE` writes it again"):
        pretrain(recipe(tmp_path, "run"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["train.optimizer.freeze=[]"], r"add image_encoder\.backbone to train\.optimizer\.freeze"),
        (["data.features.views=2"], "without augment all views are equal"),
        (["data.resolution=[{until: 0.5, image_size: 64}]"], "leave out resolution"),
        (["data.loader.images_per_sample=2"], r"leave out loader\.images_per_sample"),
        (["train.schedule.patch_dropout=0.5"], "patch_dropout is 0.5, but cached features"),
        (["encoder_weights=null"], "set encoder_weights or init_from"),
        (["init_from=somewhere"], "has an image encoder of its own"),
    ],
)
def test_recipes_that_cannot_use_features_are_refused(
    changes: list[str], complaint: str, images: Path, published: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        pretrain(recipe(tmp_path, "run", *changes))


@pytest.mark.slow
def test_training_the_last_stages_on_cached_features_equals_training_on_images(
    images: Path, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    first = timm.create_model("tf_efficientnet_lite0", num_classes=7)
    torch.save(first.state_dict(), tmp_path / "weights.pth")
    split: dict[str, Any] = {
        "encoder": {"kind": "efficientnet_lite", "image_size": 32, "width": 32, "classes": 7},
        "freeze": "train.optimizer.freeze=[image_encoder.backbone.*bn*,"
        "image_encoder.backbone.conv_stem,'image_encoder.backbone.blocks.[0-5]',"
        "image_encoder.backbone.classifier]",
    }
    pretrain(recipe(tmp_path, "cached", "data.features.stages=6", **split))
    pretrain(recipe(tmp_path, "plain", cached=False, **split))
    one, other = (read_metrics(tmp_path / run) for run in ("cached", "plain"))
    for cached, plain in zip(one, other, strict=True):
        assert cached["loss"] == pytest.approx(plain["loss"], rel=1e-3)
    trained = weights(tmp_path / "cached")
    moved = [
        name
        for name, tensor in first.state_dict().items()
        if not torch.equal(tensor, trained[f"image_encoder.backbone.{name}"])
    ]
    assert moved
    assert all(it.startswith(("blocks.6.", "conv_head.")) for it in moved)

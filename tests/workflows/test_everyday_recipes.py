"""The recipe of the default model runs as it is, only smaller."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from coca.core.config.frozen_config import load_config
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.model.encoders.efficientnet import EfficientNetLite
from coca.predict.torch_loading import load_coca
from coca.workflows.evaluation.evaluate import SuiteConfig
from coca.workflows.training.pretrain import PretrainConfig, pretrain
from everyday_plugin import register_losses
from tiny_data import image_bytes
from tiny_run import read_metrics
from word_vectors import WordVectors

RECIPES = Path(__file__).parent.parent.parent / "recipes"
RECIPE = RECIPES / "pretrain" / "everyday.yaml"
ADAPT = RECIPES / "pretrain" / "adapt_everyday.yaml"

SETS = (
    *("flickr8k/train", "classes/classes", "fashion/products"),
    *("emoji/train/noto", "emoji/train/twemoji", "emoji/train/fluent-flat"),
    *("drawings/noto-v1", "drawings/fxemoji", "drawings/streamline-emojis"),
    *("drawings/flat-color-icons", "drawings/icon-park", "drawings/streamline-freehand"),
    *("drawings/streamline-ultimate", "drawings/openclipart"),
)

SMALLER = (
    "threads=1",
    "device=cpu",
    "model.image.image_size=64",
    "model.image.width=32",
    "model.pooler.heads=2",
    "model.text.width=16",
    "model.text.heads=2",
    "model.text.mlp_width=32",
    "model.text.unimodal_layers=1",
    "model.text.multimodal_layers=1",
    "model.text.vocab_size=290",
    "model.embed_dim=16",
    "tokenizer.word_count=3",
    "data.loader.batch_size=12",
    "data.loader.workers=0",
    "train.steps=4",
    "train.log_every=1",
    "train.schedule.warmup=1",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in SETS:
        folder, _, start = f"{tmp_path}/{name}".rpartition("/")
        with ShardWriter(Path(folder), name=start) as writer:
            for number in range(3):
                caption = f"a red car {number}"
                more = {"de": ["ein rotes Auto"]} if name == "flickr8k/train" else {}
                image = image_bytes(number)
                writer.write(Sample(f"{start}/{number}", image, (caption,), metadata=more))
    words = ("taxi", "dog", "house")
    vectors = np.eye(3, dtype=np.float32)
    WordVectors(words, vectors).save(tmp_path / "word_vectors.safetensors")
    sentences = ("a taxi", "a dog", "ein Hund", "a house")
    WordVectors(sentences, np.eye(4, dtype=np.float32)).save(tmp_path / "sentences.safetensors")
    nouns = [{"words": ["dog"], "german": ["Hund"], "classes": [151, 152]}] * 2
    (tmp_path / "hypernyms.json").write_text(json.dumps({"nouns": nouns}), encoding="utf-8")
    named = [{"words": ["dog"], "classes": [1, 2]}]
    (tmp_path / "class_words.json").write_text(json.dumps(named), encoding="utf-8")
    (tmp_path / "words.txt").write_text("\n".join(words), encoding="utf-8")
    torch.manual_seed(0)
    weights = EfficientNetLite("lite0", 1000)
    save_file(weights.state_dict(), tmp_path / "encoder.safetensors")
    return tmp_path


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    register_losses(monkeypatch)


@pytest.mark.slow
def test_the_recipe_trains_all_but_the_first_stages_of_the_encoder(root: Path) -> None:
    weights = f"encoder_weights={{file: {root}/encoder.safetensors, package: '', sha256: ''}}"
    fewer = ("loss.auxiliary.0.classes=4", "loss.auxiliary.2.count=3", "model.image.class_tokens=2")
    overrides = [f"data_root={root}", *SMALLER, f"run={root}/run", weights, *fewer]
    result = pretrain(load_config(PretrainConfig, RECIPE, overrides=overrides))
    rows = read_metrics(result.run)
    assert len(rows) == result.step == 4
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert any(row["classifier"] > 0 for row in rows)
    assert "sentences" in rows[-1]
    start, prefix = load_file(root / "encoder.safetensors"), "image_encoder.backbone."
    trained = load_coca(result.model).model.state_dict()
    changed = {name for name in start if not torch.equal(start[name], trained[prefix + name])}
    assert {name.rpartition(".")[0].split(".")[0] for name in changed} == {"blocks", "conv_head"}
    assert {name.split(".")[1] for name in changed if name.startswith("blocks")} == {"5", "6"}
    assert not [name for name in changed if "bn" in name]


@pytest.mark.slow
def test_the_default_model_adapts_to_a_folder_of_captioned_photos(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        (photos / f"{number}.png").write_bytes(image_bytes(number))
        (photos / f"{number}.txt").write_text(f"exercise {number}", encoding="utf-8")
    changes = (
        *(f"data_root={photos}", f"run={tmp_path}/run", f"data.features.folder={tmp_path}/cache"),
        *("data.features.views=1", "data.loader.batch_size=4", "train.steps=2", "threads=1"),
        *("device=cpu", "train.log_every=1"),
    )
    result = pretrain(load_config(PretrainConfig, ADAPT, overrides=changes))
    assert result.step == 2
    before, after = (load_coca(it).model.state_dict() for it in ("everyday", result.model))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if name.startswith("image_encoder.backbone.")]


def test_reserved_data_are_in_no_source() -> None:
    config = load_config(PretrainConfig, RECIPE)
    paths = [path for source in config.data.sources for path in source.paths]
    assert not [path for path in paths if "openmoji" in path or "/val" in path or "test" in path]
    photos = config.loss.auxiliary[0].sources  # type: ignore[attr-defined]
    drawings = [source for source in config.data.sources if source.name not in photos]
    assert len(config.data.sources) - len(drawings) == len(photos)
    share = sum(it.weight for it in drawings) / sum(it.weight for it in config.data.sources)
    assert share == pytest.approx(0.5, abs=0.02)


def test_development_and_test_read_other_files_or_other_parts_of_a_file() -> None:
    chosen, final = (
        {
            f"{task.data.path} {getattr(task.data, 'part', None)}"
            for task in load_config(SuiteConfig, RECIPES / "evaluate" / f"{name}.yaml").tasks
        }
        for name in ("everyday", "everyday_test")
    )
    assert chosen
    assert not chosen & final

"""Fine-tuning of image-text models on pairs, compared with OpenCLIP's own losses and loaders."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import coca
from coca.core.config.frozen_config import load_config
from coca.core.errors import ConfigError
from coca.data.sources.factory import open_source
from coca.inference.tower import load_tower
from coca.train.tracker import read_metrics
from coca.workflows.training.finetune_retrieval import (
    PairModel,
    PairProcessor,
    RetrievalConfig,
    finetune_retrieval,
)
from coca.workflows.training.pretrain_data import make_loader
from tiny_image_text import write_openclip, write_transformers
from tiny_workflows import NAMES, stopping_at, write_squares

open_clip: Any = pytest.importorskip("open_clip", reason="the extra openclip is not installed")
transformers: Any = pytest.importorskip("transformers", reason="the extra is not installed")

MODELS: dict[str, Callable[[Path], Path]] = {
    "openclip-clip": write_openclip,
    "openclip-siglip": partial(write_openclip, family="siglip"),
    "hf-clip": write_transformers,
    "hf-siglip": partial(write_transformers, family="siglip"),
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "photos")


def recipe(root: Path, model: Path, *changes: str, run: str = "run") -> RetrievalConfig:
    layer: dict[str, Any] = {
        "model": str(model),
        "data": {
            "sources": [{"kind": "folder", "path": str(root / "photos")}],
            "loader": {"batch_size": 6},
        },
        "train": {
            "steps": 3,
            "log_every": 1,
            "optimizer": {"lr": 1e-3, "weight_decay": 0.1},
            "schedule": {"warmup": 0, "decay": "constant"},
            "grad_clip": None,
        },
    }
    return load_config(RetrievalConfig, layer, overrides=[f"run={root / run}", *changes])


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run)]


def parameters(model: Path) -> dict[str, Tensor]:
    return {name: it.clone() for name, it in load_tower(model).model.state_dict().items()}


def batches(config: RetrievalConfig, count: int) -> list[tuple[Tensor, Tensor]]:
    """The batches of a run: normalized images, and token ids."""
    sources = [(it, open_source(it)) for it in config.data.sources]
    processor = PairProcessor(load_tower(Path(config.model)))
    loader = make_loader(
        config.data.for_head(None),
        sources,
        processor,
        steps=count,
        seed=config.seed,
        bad_log=config.run / "bad.jsonl",
    )
    stream = iter(loader)
    ready = [next(stream).to(torch.device("cpu")) for _ in range(count)]
    return [(it.images, it.tokens) for it in ready]


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_three_steps_have_the_losses_of_open_clip(
    family: str, photos: Path, tmp_path: Path
) -> None:
    folder = write_openclip(tmp_path / "model", family)
    config = recipe(tmp_path, folder)
    finetune_retrieval(config)
    model = open_clip.create_model(f"local-dir:{folder}").train()
    # As open_clip_train: no decay of norms, biases and the logit scale.
    named = [(name, it) for name, it in model.named_parameters() if it.requires_grad]
    plain = [it for name, it in named if it.ndim < 2 or name.endswith(("positions", "queries"))]
    rest = [it for name, it in named if not any(it is other for other in plain)]
    optimizer = torch.optim.AdamW(
        [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.1}],
        lr=1e-3,
        betas=config.train.optimizer.betas,
        eps=config.train.optimizer.eps,
    )
    loss_of = open_clip.loss.SigLipLoss() if family == "siglip" else open_clip.loss.ClipLoss()
    expected = []
    for images, tokens in batches(config, 3):
        optimizer.zero_grad()
        names = ("image_features", "text_features", "logit_scale", "logit_bias")
        loss = loss_of(**dict(zip(names, model(images, tokens), strict=False)))
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        expected.append(float(loss.detach()))
    np.testing.assert_allclose(losses(config.run), expected, rtol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_finished_model_goes_back_to_its_library(
    name: str, photos: Path, tmp_path: Path
) -> None:
    folder = MODELS[name](tmp_path / "model")
    config = recipe(tmp_path, folder, "train.steps=40")
    result = finetune_retrieval(config)
    found = losses(config.run)
    assert found[-1] < found[0]
    loaded, before = coca.load(result.model, device="cpu"), coca.load(folder, device="cpu")
    assert loaded.fingerprint != before.fingerprint
    assert coca.load(config.run, device="cpu").fingerprint == loaded.fingerprint
    vectors = loaded.embed_texts(list(NAMES))
    assert not np.allclose(vectors, before.embed_texts(list(NAMES)), atol=1e-3)
    if name.startswith("openclip"):
        theirs = open_clip.create_model(f"local-dir:{result.model}", require_pretrained=True)
        ids = open_clip.get_tokenizer(f"local-dir:{result.model}")(list(NAMES))
        with torch.no_grad():
            features = theirs.eval().encode_text(ids, normalize=True)
    else:
        theirs = transformers.AutoModel.from_pretrained(result.model)
        tokenizer = transformers.AutoTokenizer.from_pretrained(result.model)
        transformers.AutoImageProcessor.from_pretrained(result.model)
        options = {"padding": "max_length", "max_length": 24} if "siglip" in name else {}
        ids = tokenizer(list(NAMES), return_tensors="pt", **({"padding": True} | options))
        with torch.no_grad():
            features = theirs.eval().get_text_features(**ids).pooler_output
        features = torch.nn.functional.normalize(features, dim=-1)
    np.testing.assert_allclose(features.numpy(), vectors, atol=1e-6)
    state = parameters(result.model)
    assert all(torch.equal(it, state[key]) for key, it in theirs.state_dict().items())


@pytest.mark.parametrize("name", ["openclip-siglip", "hf-clip"])
def test_micro_batches_and_a_second_start_change_nothing(
    name: str, photos: Path, tmp_path: Path
) -> None:
    folder = MODELS[name](tmp_path / "model")
    finetune_retrieval(recipe(tmp_path, folder))
    finetune_retrieval(recipe(tmp_path, folder, "train.micro_batch=2", run="micro"))
    np.testing.assert_allclose(losses(tmp_path / "micro"), losses(tmp_path / "run"), rtol=1e-4)
    stopped = finetune_retrieval(recipe(tmp_path, folder, run="parts"), progress=stopping_at(2))
    assert (stopped.step, stopped.interrupted) == (2, True)
    finetune_retrieval(recipe(tmp_path, folder, run="parts"))
    whole, parts = (parameters(tmp_path / run / "model") for run in ("run", "parts"))
    assert all(torch.equal(it, parts[key]) for key, it in whole.items())


@pytest.mark.parametrize("name", ["openclip-clip", "hf-siglip"])
def test_adapters_are_merged_and_last_blocks_leave_the_first_alone(
    name: str, photos: Path, tmp_path: Path
) -> None:
    folder = MODELS[name](tmp_path / "model")
    before = parameters(folder)
    finetune_retrieval(recipe(tmp_path, folder, "lora.rank=2", run="lora"))
    lora = parameters(tmp_path / "lora" / "model")
    changed = {key for key, it in lora.items() if not torch.equal(it, before[key])}
    assert before.keys() == lora.keys()
    assert any("mlp" in key for key in changed)
    assert not any("embed" in key or "norm" in key for key in changed)
    finetune_retrieval(recipe(tmp_path, folder, "retrieval.last_blocks=1", run="last"))
    last = parameters(tmp_path / "last" / "model")
    changed = {key for key, it in last.items() if not torch.equal(it, before[key])}
    inner = "resblocks" if "openclip" in name else "layers"
    assert {key.partition(f"{inner}.")[2][:1] for key in changed if f"{inner}." in key} == {"1"}
    assert not any("embedding" in key or "conv1" in key for key in changed)
    assert any("scale" in key for key in changed)


def test_workers_tokenize_as_well(photos: Path, tmp_path: Path) -> None:
    folder = write_transformers(tmp_path / "model", "siglip")
    for workers, run in ((0, "run"), (1, "worker")):
        change = f"data.loader.workers={workers}"
        finetune_retrieval(recipe(tmp_path, folder, change, run=run))
    assert losses(tmp_path / "run") == losses(tmp_path / "worker")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (("retrieval.loss=sigmoid",), "has no bias; set it to softmax"),
        (("retrieval.last_blocks=3",), "has 2; set it to 2 at most"),
        (("retrieval.last_blocks=1", "lora.rank=2"), "set one of the two"),
        (("train.parallel=fsdp",), "use ddp"),
        (("data.features.folder=x",), "leave it out"),
        (("model=everyday",), "is not an image-text model of OpenCLIP or transformers"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    changes: tuple[str, ...], complaint: str, photos: Path, tmp_path: Path
) -> None:
    folder = write_transformers(tmp_path / "model")
    with pytest.raises(ConfigError, match=complaint):
        finetune_retrieval(recipe(tmp_path, folder, *changes))


def test_masks_do_not_change_the_texts_of_a_batch(tmp_path: Path) -> None:
    for family in ("clip", "chinese_clip", "altclip"):
        tower = load_tower(write_transformers(tmp_path / family, family))
        texts = ["a dog", "two cats, three birds and a house"]
        with torch.no_grad():
            pair = PairModel(tower)(torch.zeros(2, 3, 32, 32), tower.tokenize(texts)).texts
        np.testing.assert_allclose(pair.numpy(), tower.embed_texts(texts), atol=1e-6)

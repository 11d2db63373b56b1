import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coca.core.config.frozen_config import load_config
from coca.core.errors import ConfigError
from coca.core.registry import Registry
from coca.data.batch import Batch
from coca.model.coca import CoCa, CoCaOutput
from coca.model.coca_config import HeadConfig
from coca.model.losses.contrastive_loss import ContrastiveOutput
from coca.model.pretrained import build
from coca.train.backward import backward
from coca.train.distributed.parallel import ParallelModel
from coca.train.losses import (
    AuxiliaryConfig,
    AuxiliaryLoss,
    ContrastiveLoss,
    Embedded,
    LossConfig,
    Losses,
)
from coca.train.objective import CoCaObjective
from tiny import sharpened, tiny_config
from tiny_ranks import plain_sigmoid_loss
from tiny_run import TinyStream

ONLY = {"contrastive_weight": 0.0, "captioning_weight": 0.0, "classification_weight": 0.0}


@pytest.fixture
def model() -> CoCa:
    torch.manual_seed(0)
    return sharpened(build(tiny_config(head=HeadConfig(classes=("a", "b", "c"), heads=2))))


@pytest.fixture
def batch() -> Batch:
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]])
    return dataclasses.replace(next(iter(TinyStream())), class_targets=targets)


def losses_of(model: CoCa, batch: Batch, **settings: Any) -> Losses:
    return CoCaObjective(LossConfig(**{**ONLY, **settings}))(model, batch)


def test_the_total_is_the_weighted_sum_of_the_parts(model: CoCa, batch: Batch) -> None:
    losses = losses_of(
        model, batch, contrastive_weight=1.0, captioning_weight=2.0, classification_weight=0.5
    )
    parts = losses.parts
    expected = parts["contrastive"] + 2 * parts["captioning"] + 0.5 * parts["classification"]
    torch.testing.assert_close(losses.total.detach(), expected)


@pytest.mark.parametrize("name", ["contrastive", "captioning", "classification"])
def test_a_loss_alone_equals_its_part_among_all(model: CoCa, batch: Batch, name: str) -> None:
    together = losses_of(
        model, batch, contrastive_weight=1.0, captioning_weight=1.0, classification_weight=1.0
    )
    alone = losses_of(model, batch, **{f"{name}_weight": 1.0})
    torch.testing.assert_close(alone.total.detach(), together.parts[name])
    others = {"contrastive", "captioning", "classification"} - {name}
    assert not others & set(alone.parts)


def test_a_loss_of_weight_zero_runs_no_tower(model: CoCa, batch: Batch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("this tower was run")

    model.multimodal_decoder.register_forward_pre_hook(fail)
    losses_of(model, batch, contrastive_weight=1.0)
    model.unimodal_decoder.register_forward_pre_hook(fail)
    losses_of(model, batch, classification_weight=1.0)


def test_one_forward_pass_serves_all_losses(model: CoCa, batch: Batch) -> None:
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    losses_of(
        model, batch, contrastive_weight=1.0, captioning_weight=1.0, classification_weight=1.0
    )
    assert len(calls) == 1


def test_the_sigmoid_loss_learns_scale_and_bias(batch: Batch) -> None:
    torch.manual_seed(0)
    model = CoCa(tiny_config(initial_bias=-10.0, initial_temperature=0.1))
    losses = losses_of(model, batch, contrastive_weight=1.0, contrastive="sigmoid")
    output = model(batch.images, batch.tokens)
    expected = plain_sigmoid_loss(
        output.image_embedding, output.text_embedding, torch.tensor(10.0), torch.tensor(-10.0)
    )
    torch.testing.assert_close(losses.parts["contrastive"], expected.detach())
    losses.total.backward()
    for number in (model.log_scale, model.logit_bias):
        assert number is not None
        assert number.grad is not None
        assert number.grad != 0


def test_loss_and_model_must_agree_on_a_bias(model: CoCa, batch: Batch) -> None:
    with pytest.raises(ConfigError, match="needs a model with a bias"):
        losses_of(model, batch, contrastive_weight=1.0, contrastive="sigmoid")
    biased = CoCa(tiny_config(initial_bias=-10.0))
    with pytest.raises(ConfigError, match="no bias can change"):
        losses_of(biased, batch, contrastive_weight=1.0)
    assert losses_of(biased, batch, captioning_weight=1.0).total > 0


def test_label_smoothing_and_chunks_reach_the_captioning_loss(model: CoCa, batch: Batch) -> None:
    plain = losses_of(model, batch, captioning_weight=1.0).total
    chunked = losses_of(model, batch, captioning_weight=1.0, caption_chunk=3).total
    smoothed = losses_of(model, batch, captioning_weight=1.0, label_smoothing=0.3).total
    torch.testing.assert_close(plain, chunked)
    assert not torch.isclose(plain, smoothed)


def test_temperature_is_logged_in_its_own_unit(model: CoCa, batch: Batch) -> None:
    parts = losses_of(model, batch, contrastive_weight=1.0).parts
    assert float(parts["temperature"]) == pytest.approx(0.07)


def test_images_without_a_label_do_not_count(model: CoCa, batch: Batch) -> None:
    rows = [0, 1, 3]
    assert batch.class_targets is not None
    labelled = Batch(
        images=batch.images[rows],
        tokens=batch.tokens[rows],
        keys=("a", "b", "c"),
        start=0,
        class_targets=batch.class_targets[rows],
    )
    torch.testing.assert_close(
        losses_of(model, batch, classification_weight=1.0).total,
        losses_of(model, labelled, classification_weight=1.0).total,
    )


def test_a_batch_without_any_label_gives_zero_and_finite_gradients(
    model: CoCa, batch: Batch
) -> None:
    unlabelled = dataclasses.replace(batch, class_targets=torch.zeros(4, 3))
    losses = losses_of(model, unlabelled, classification_weight=1.0)
    losses.total.backward()
    assert losses.total == 0
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert not any(gradient.any() for gradient in gradients)


def test_classes_that_are_asked_for_but_absent_raise(model: CoCa, batch: Batch) -> None:
    headless = CoCa(tiny_config())
    with pytest.raises(ConfigError, match="no head that answers"):
        losses_of(headless, batch, classification_weight=1.0)
    with pytest.raises(ConfigError, match="carry no classes"):
        losses_of(model, dataclasses.replace(batch, class_targets=None), classification_weight=1.0)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (ONLY, "all losses have weight 0"),
        ({"contrastive": "sigmod"}, "unknown contrastive loss 'sigmod'; did you mean 'sigm"),
        ({"contrastive": "sigmoid", "contrastive_reduction": "mean"}, "has no two directions"),
    ],
)
def test_a_setting_out_of_range_raises(setting: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        LossConfig(**setting)


def test_a_registered_loss_is_minimized(
    model: CoCa, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A registry of its own, since what is registered stays.
    losses_known: Registry[ContrastiveLoss] = Registry("contrastive loss")
    for module in ("losses", "objective"):
        monkeypatch.setattr(f"coca.train.{module}.CONTRASTIVE_LOSSES", losses_known)

    @losses_known.register("distance")
    def distance(embedded: Embedded, config: LossConfig) -> ContrastiveOutput:
        gap = (embedded.images - embedded.texts).square().sum(dim=1).mean()
        return ContrastiveOutput(gap, torch.zeros(()))

    losses = losses_of(model, batch, contrastive_weight=2.0, contrastive="distance")
    output = model(batch.images, batch.tokens)
    gap = (output.image_embedding - output.text_embedding).square().sum(dim=1).mean()
    torch.testing.assert_close(losses.total, 2 * gap)


class SpreadConfig(AuxiliaryConfig):
    kind: str = "spread"
    factor: float = 1.0


class Spread(AuxiliaryLoss):
    """A loss with a parameter of its own, which it adds to the model."""

    config_class = SpreadConfig

    def __init__(self, config: SpreadConfig, model: Any, processor: Any) -> None:
        self.factor = config.factor
        model.register_parameter("gain", nn.Parameter(torch.ones(())))

    def __call__(self, model: Any, batch: Batch, output: CoCaOutput) -> Tensor:
        assert output.image_embedding is not None
        return self.factor * model.gain * output.image_embedding.square().sum(dim=1).exp().mean()


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> None:
    known: Registry[type[AuxiliaryLoss]] = Registry("auxiliary loss")
    known.register("spread")(Spread)
    monkeypatch.setattr("coca.train.losses.AUXILIARY_LOSSES", known)


@pytest.mark.usefixtures("spread")
@pytest.mark.parametrize("contrastive_weight", [0.0, 1.0])
def test_an_auxiliary_loss_has_the_gradients_of_the_whole_batch_in_micro_batches(
    batch: Batch, contrastive_weight: float
) -> None:
    settings = {"kind": "spread", "weight": 0.5, "factor": 3.0}
    weights = {"contrastive_weight": contrastive_weight, "captioning_weight": 0}
    tree = {**weights, "auxiliary": [settings]}
    config = load_config(LossConfig, tree)
    results = []
    for micro_batch in (None, 1):
        torch.manual_seed(0)
        model = sharpened(CoCa(tiny_config()))
        objective = CoCaObjective(config, [Spread(SpreadConfig(factor=3.0), model, None)])
        parallel = ParallelModel(model, "none", device=torch.device("cpu"))
        losses = backward(parallel, objective, batch, micro_batch=micro_batch)
        assert model.gain.grad is not None
        results.append((losses, {n: g.clone() for n, g in parallel.gradients()}))
    (whole, expected), (parts, found) = results
    assert set(whole.parts) >= {"spread"}
    torch.testing.assert_close(parts.total, whole.total)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("spread")
def test_an_unknown_auxiliary_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown; did you mean 'spread'"):
        load_config(LossConfig, {"auxiliary": [{"kind": "spreads"}]})

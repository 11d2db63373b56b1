import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from coca.core.errors import ConfigError
from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.model.coca_config import HeadConfig
from coca.model.pretrained import build
from coca.processing.image import ImageConfig, ImageTransform
from coca.train.backward import backward
from coca.train.blocks import set_training_mode
from coca.train.distributed.parallel import GradientNorms, ParallelModel
from coca.train.losses import LossConfig, Losses
from coca.train.nonfinite import (
    StepFigures,
    cause_of,
    figures_of,
    location_of,
    read_figures,
)
from coca.train.objective import CoCaObjective
from coca.train.optim.param_groups import freeze
from tiny import captioner, images, sharpened, tiny_config
from tiny_ranks import ragged_batch

FINE = {"loss": 1.0, "contrastive": 0.5, "grad_norm": 2.0}


def figures(
    *bad: str, rank: int = 0, culprits: bool = False, metrics: dict[str, float] | None = None
) -> StepFigures[float]:
    norms = {name: torch.inf if name in bad else 1.0 for name in ("first", "second", "third")}
    return StepFigures(5, FINE | (metrics or {}), norms, culprits, 4 * rank, 4 * rank + 3)


@pytest.mark.parametrize(
    ("metrics", "bad", "cause"),
    [
        ({"contrastive": torch.nan, "loss": torch.nan}, (), "contrastive"),
        ({"loss": torch.inf}, ("first",), "the loss"),
        ({"grad_norm": torch.nan}, ("second", "third"), "the gradient of second"),
        ({"grad_norm": torch.inf}, (), "the gradient norm"),
    ],
)
def test_the_first_that_is_not_finite_is_the_cause(
    metrics: dict[str, float], bad: tuple[str, ...], cause: str
) -> None:
    assert cause_of([figures(*bad, metrics=metrics)]) == cause


def test_figures_of_steps_are_read_together_and_name_the_samples() -> None:
    batch: Batch = dataclasses.replace(ragged_batch(3), start=6)
    spoiled = dataclasses.replace(batch, images=batch.images / 0)
    losses = Losses(torch.tensor(1.5), {"contrastive": torch.tensor(0.5)})
    norms = GradientNorms(torch.tensor(2.0), {"first": torch.tensor(3.0)})
    steps = [figures_of(number, it, losses, norms) for number, it in ((1, batch), (2, spoiled))]
    metrics = {"loss": 1.5, "contrastive": 0.5, "grad_norm": 2.0}
    assert read_figures(steps) == [
        StepFigures(1, metrics, {"first": 3.0}, False, 6, 8),
        StepFigures(2, metrics, {"first": 3.0}, True, 6, 8),
    ]
    assert read_figures([]) == []


def test_the_rank_with_the_shard_names_the_gradient() -> None:
    assert cause_of([figures(), figures("second", rank=1)]) == "the gradient of second"


@pytest.mark.parametrize(
    ("culprits", "location"),
    [
        ((False,), "samples 0 to 3"),
        ((True,), "samples 0 to 3"),
        ((False, False, False), "samples 0 to 11"),
        ((True, True, True), "samples 0 to 11"),
        ((False, True, False), "rank 1, samples 4 to 7"),
        ((False, True, True), "rank 1, 2, samples 4 to 11"),
    ],
)
def test_the_location_is_as_narrow_as_what_is_known(
    culprits: tuple[bool, ...], location: str
) -> None:
    ranks = [figures(rank=rank, culprits=bad) for rank, bad in enumerate(culprits)]
    assert location_of(ranks) == location


LOSSES: dict[str, dict[str, Any]] = {
    "paper": {},
    "mean": {"contrastive_reduction": "mean", "contrastive_rows": 3},
    "sigmoid": {"contrastive": "sigmoid", "contrastive_rows": 2},
    "contrastive only": {"captioning_weight": 0.0},
    "captioning only": {"contrastive_weight": 0.0, "label_smoothing": 0.1},
    "all three": {"classification_weight": 0.5, "caption_chunk": 4},
    "words": {"contrastive_weight": 0.0, "classification_weight": 1.0, "class_smoothing": 0.2},
}


def make_model(name: str = "paper") -> ParallelModel[CoCa]:
    torch.manual_seed(0)
    bias = -10.0 if name == "sigmoid" else None
    head = HeadConfig(classes=("a", "b", "c"), heads=2)
    if name == "words":
        head = HeadConfig(classes=head.classes, reads="text", heads=3)
    model = sharpened(build(tiny_config(initial_bias=bias, head=head)))
    return ParallelModel(model, "none", device=torch.device("cpu"))


def step(
    name: str, batch: Batch, micro_batch: int | None, **options: Any
) -> tuple[Losses, dict[str, Tensor]]:
    model = make_model(name)
    objective = CoCaObjective(LossConfig(**LOSSES[name]))
    losses = backward(model, objective, batch, micro_batch=micro_batch, **options)
    return losses, dict(model.gradients())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("micro_batch", [1, 3, 7])
def test_parts_give_the_figures_and_gradients_of_the_whole(name: str, micro_batch: int) -> None:
    batch = ragged_batch(7)
    # The first half of each caption is the prompt, the rest the answer.
    words = ((batch.tokens > 3) | (batch.tokens == 1)).sum(dim=1)
    batch = dataclasses.replace(batch, prompt_lengths=(words + 1) // 2)
    plain, expected = step(name, batch, None)
    losses, gradients = step(name, batch, micro_batch)
    # Sums in another order: a few units in the last of fp32's seven digits.
    torch.testing.assert_close(losses.total, plain.total, rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.parts, plain.parts, rtol=1e-5, atol=0)
    assert list(losses.parts) == list(plain.parts)
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        assert (gradient - expected[key]).norm() <= 1e-5 * expected[key].norm() + 1e-7, key


def test_unmarked_captions_take_no_part_in_the_captioning_loss_of_any_part() -> None:
    batch = ragged_batch(6)
    marked = torch.tensor([True, False, True, False, False, True])
    some = dataclasses.replace(batch, is_captioned=marked)
    rows = [row for row in range(6) if marked[row]]
    alone = Batch(batch.images[rows], batch.tokens[rows], ("a", "b", "c"), 0)
    whole, _ = step("paper", batch, None)
    expected, _ = step("paper", alone, None)
    for micro_batch in (None, 1, 2):
        losses, _ = step("paper", some, micro_batch)
        torch.testing.assert_close(losses.parts["captioning"], expected.parts["captioning"])
        torch.testing.assert_close(losses.parts["contrastive"], whole.parts["contrastive"])
    none = dataclasses.replace(batch, is_captioned=torch.zeros(6, dtype=torch.bool))
    losses, gradients = step("captioning only", none, 2)
    assert losses.total == 0
    assert not any(gradient.any() for gradient in gradients.values())


def test_the_figures_of_a_step_carry_no_graph() -> None:
    for micro_batch in (None, 2):
        losses, _ = step("all three", ragged_batch(4), micro_batch)
        assert not losses.total.requires_grad
        assert not any(part.requires_grad for part in losses.parts.values())


@pytest.mark.parametrize(
    ("name", "encoded", "decoded"),
    [("paper", 6, 3), ("contrastive only", 6, 0), ("captioning only", 3, 3)],
)
def test_the_encoders_run_twice_with_a_contrastive_loss_and_the_decoder_once(
    name: str, encoded: int, decoded: int
) -> None:
    model, calls = make_model(name), {"image_encoder": 0, "multimodal_decoder": 0}
    for tower in calls:

        def count(*_: object, tower: str = tower) -> None:
            calls[tower] += 1

        getattr(model.model, tower).register_forward_pre_hook(count)
    objective = CoCaObjective(LossConfig(**LOSSES[name]))
    backward(model, objective, ragged_batch(6), micro_batch=2)
    assert calls == {"image_encoder": encoded, "multimodal_decoder": decoded}


def test_both_passes_of_a_part_draw_the_same_and_the_next_part_draws_again() -> None:
    model, drawn = make_model(), []

    def disturb(_: object, __: object, encoded: Tensor) -> Tensor:
        noise = torch.randn(encoded.shape[1])
        drawn.append(noise)
        return encoded + noise[:, None]

    model.model.image_encoder.register_forward_hook(disturb)
    objective = CoCaObjective(LossConfig())
    backward(model, objective, ragged_batch(4), micro_batch=2)
    first, second, *again = drawn
    torch.testing.assert_close(again, [first, second])
    assert not torch.equal(first, second)
    backward(model, objective, ragged_batch(4), micro_batch=2)
    assert not any(torch.equal(noise, old) for noise in drawn[4:] for old in drawn[:4])


def test_gradients_are_added_to_those_that_are_there() -> None:
    model, objective = make_model(), CoCaObjective(LossConfig())
    backward(model, objective, ragged_batch(4), micro_batch=3)
    once = {name: gradient.clone() for name, gradient in model.gradients()}
    backward(model, objective, ragged_batch(4), micro_batch=3)
    for name, gradient in model.gradients():
        torch.testing.assert_close(gradient, 2 * once[name])


def test_only_the_last_part_exchanges_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = make_model(), []

    @contextmanager
    def sync(last: bool) -> Iterator[None]:
        calls.append(last)
        yield

    monkeypatch.setattr(model, "sync", sync)
    objective = CoCaObjective(LossConfig())
    backward(model, objective, ragged_batch(5), micro_batch=2)
    assert calls == [False, False, True]
    backward(model, objective, ragged_batch(5))
    assert calls[3:] == [True]


def test_parts_equal_the_whole_in_half_precision_too() -> None:
    def half() -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    plain, expected = step("paper", ragged_batch(7), None, autocast=half)
    losses, gradients = step("paper", ragged_batch(7), 3, autocast=half)
    full, _ = step("paper", ragged_batch(7), None)
    assert full.total != plain.total
    # bf16 keeps eight bits.
    torch.testing.assert_close(losses.total, plain.total, rtol=1e-2, atol=0)
    for key, gradient in gradients.items():
        assert (gradient - expected[key]).norm() <= 3e-2 * expected[key].norm() + 1e-3, key


def test_images_become_floats_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    batch = dataclasses.replace(
        ragged_batch(5), images=images, image_config=ImageConfig(image_size=16)
    )
    plain, expected = step("all three", batch.to("cpu"), None)
    sizes: list[int] = []
    normalize = ImageTransform.normalize

    def counted(transform: ImageTransform, images: Any) -> Any:
        sizes.append(len(images))
        return normalize(transform, images)

    monkeypatch.setattr(ImageTransform, "normalize", counted)
    losses, gradients = step("all three", batch, 2)
    # For the embeddings, then for the step; never the five at once.
    assert sizes == [2, 2, 1, 2, 2, 1]
    torch.testing.assert_close(losses.total, plain.total, rtol=1e-5, atol=0)
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() < 1e-5 * gradient.norm(), name


def test_images_without_labels_in_a_part_do_no_harm() -> None:
    batch = ragged_batch(4)
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0]])
    batch = dataclasses.replace(batch, class_targets=targets)
    plain, _ = step("all three", batch, None)
    losses, _ = step("all three", batch, 2)
    torch.testing.assert_close(losses.parts, plain.parts)


def test_trained_batch_norms_need_the_whole_batch_and_frozen_ones_do_not() -> None:
    model = captioner("convnet")
    parallel = ParallelModel(model, "none", device=torch.device("cpu"))
    objective, batch = CoCaObjective(LossConfig()), ragged_batch(4)
    batch = dataclasses.replace(batch, images=images("convnet", 4))
    set_training_mode(model)
    sentence = r"micro_batch is 2, but the batch norm image_encoder\.backbone\.conv1"
    with pytest.raises(ConfigError, match=sentence):
        backward(parallel, objective, batch, micro_batch=2)
    freeze(model, ["image_encoder"])
    set_training_mode(model)
    whole = backward(parallel, objective, batch)
    torch.testing.assert_close(backward(parallel, objective, batch, micro_batch=2), whole)


def test_an_objective_that_needs_the_whole_batch_raises() -> None:
    class Whole:
        def __call__(self, model: CoCa, batch: Batch) -> Losses:
            return Losses(model.encode_image(batch.images).sum(), {})

        def constrain_(self, model: CoCa) -> None: ...

    assert backward(make_model(), Whole(), ragged_batch(4)).parts == {}
    with pytest.raises(ConfigError, match="Whole needs the whole batch"):
        backward(make_model(), Whole(), ragged_batch(4), micro_batch=2)

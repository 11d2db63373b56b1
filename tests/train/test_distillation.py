import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from coca.core.errors import ConfigError
from coca.data.batch import Batch
from coca.model.captioner import Captioner
from coca.model.coca import CoCa
from coca.train.backward import backward
from coca.train.distillation import (
    ClassPrompts,
    DistillationConfig,
    distillation_loss,
    draw_classes,
    sample_classes,
)
from coca.train.distributed.parallel import ParallelModel
from coca.train.objective import CoCaObjective, LossConfig
from tiny import caption, captioner, encode_letters, images
from tiny_ranks import drawn_classes, on_ranks

NAMES = ("cat, kitty", "dog", "red car, auto, motorcar", "tree", "house", "sea, ocean", "cup")


def prompts_of(*templates: str) -> ClassPrompts:
    return ClassPrompts(NAMES, templates or ("a {}", "the {}"), encode_letters)


@pytest.fixture
def model() -> CoCa:
    return captioner("convnet")


@pytest.fixture
def batch() -> Batch:
    rows = [caption(7, 8, 9, length=8), caption(11, length=8), caption(4, 5, length=8)] * 2
    return Batch(images("convnet", 6), torch.tensor(rows), tuple("abcdef"), 0)


def by_hand(model: Captioner, batch: Batch, temperature: float = 1.0) -> Tensor:
    """The divergence of each image over all classes, with the first name in the one template."""
    features = model.image_encoder.features(batch.images)
    target = (model.image_encoder.classify(features) / temperature).softmax(dim=1)
    texts = model.encode_text(encode_letters([name.split(", ")[0] for name in NAMES]))
    cosines = model.encode_image(batch.images) @ texts.T
    student = (model.logit_scale * cosines).softmax(dim=1)
    return (target * (target / student).log()).sum(dim=1)


def objective(**settings: float) -> CoCaObjective:
    weights = {"contrastive_weight": 0.0, "captioning_weight": 0.0, **settings}
    distillation = DistillationConfig(classes=7)
    config = LossConfig(distillation=distillation, **weights)  # type: ignore[arg-type]
    first = ClassPrompts([name.split(", ")[0] for name in NAMES], ("{}",), encode_letters)
    return CoCaObjective(config, first)


def test_the_loss_is_the_mean_divergence_of_all_images(model: CoCa, batch: Batch) -> None:
    losses = objective(distillation_weight=0.5)(model, batch)
    expected = by_hand(model, batch).mean()
    torch.testing.assert_close(losses.parts["distillation"], expected.detach())
    torch.testing.assert_close(losses.total, 0.5 * expected)
    assert set(losses.parts) == {"distillation"}


def test_only_marked_images_are_distilled(model: CoCa, batch: Batch) -> None:
    marked = torch.tensor([True, False, False, True, False, False])
    some = dataclasses.replace(batch, is_distilled=marked)
    losses = objective(distillation_weight=1.0)(model, some)
    torch.testing.assert_close(losses.total, by_hand(model, batch)[marked].mean())
    none = dataclasses.replace(batch, is_distilled=torch.zeros(6, dtype=torch.bool))
    assert objective(distillation_weight=1.0)(model, none).total == 0


def test_features_give_the_same_loss_as_their_images(model: CoCa, batch: Batch) -> None:
    features = model.image_encoder.features(batch.images).detach()
    cached = dataclasses.replace(batch, images=features)
    every = {"contrastive_weight": 1.0, "captioning_weight": 2.0, "distillation_weight": 1.0}
    one, other = (objective(**every)(model, it) for it in (batch, cached))
    torch.testing.assert_close(one.total, other.total)
    assert set(one.parts) >= {"contrastive", "captioning", "distillation"}


@pytest.mark.parametrize("contrastive", [0.0, 1.0])
def test_micro_batches_give_the_gradients_of_the_whole(
    model: CoCa, batch: Batch, contrastive: float
) -> None:
    batch = dataclasses.replace(batch, is_distilled=torch.arange(6) % 4 > 0)
    found = []
    for micro_batch in (None, 2):
        model.zero_grad()
        loss = objective(contrastive_weight=contrastive, distillation_weight=1.0)
        parallel = ParallelModel(model, "none", device=torch.device("cpu"))
        losses = backward(parallel, loss, batch, micro_batch=micro_batch)
        gradients = {name: gradient.clone() for name, gradient in parallel.gradients()}
        found.append((losses.total, gradients))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("contrastive", [0.0, 1.0])
@pytest.mark.parametrize("cached", [False, True])
def test_all_micro_batches_of_a_step_have_the_same_drawn_classes_and_prompts(
    model: CoCa, batch: Batch, contrastive: float, cached: bool
) -> None:
    if cached:
        with torch.no_grad():
            features = model.image_encoder.features(batch.images)
            teacher = model.image_encoder.classify(features)
        batch = dataclasses.replace(batch, images=features, teacher_logits=teacher)
    batch = dataclasses.replace(batch, is_distilled=torch.arange(6) % 4 > 0)
    config = LossConfig(
        contrastive_weight=contrastive,
        captioning_weight=0.0,
        distillation_weight=1.0,
        distillation=DistillationConfig(classes=3),
    )
    found = []
    for micro_batch in (None, 1, 4):
        torch.manual_seed(0)
        model.zero_grad()
        parallel = ParallelModel(model, "none", device=torch.device("cpu"))
        objective = CoCaObjective(config, prompts_of("a {}", "the {}"))
        losses = backward(parallel, objective, batch, micro_batch=micro_batch)
        gradients = {name: gradient.clone() for name, gradient in parallel.gradients()}
        found.append((losses.total, gradients))
    for total, gradients in found[1:]:
        torch.testing.assert_close(total, found[0][0])
        assert gradients.keys() == found[0][1].keys()
        for name, gradient in found[0][1].items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.distributed
def test_all_ranks_draw_the_same_classes(tmp_path: Path) -> None:
    first, second = on_ranks(2, tmp_path, drawn_classes)
    assert first.tolist() == second.tolist()
    assert {10, 11, 20, 21} <= set(first.tolist())
    assert len(set(first.tolist())) == 10


def test_the_classifier_is_no_part_of_the_student(model: CoCa, batch: Batch) -> None:
    objective(distillation_weight=1.0)(model, batch).total.backward()
    encoder = model.image_encoder
    own = {name for name, _ in encoder.feature_parameters()}
    head = {name: p for name, p in encoder.named_parameters() if name.startswith("backbone.fc")}
    assert head
    assert not own & head.keys()
    assert all(parameter.grad is None for parameter in head.values())
    assert model.unimodal_decoder.token_embedding.weight.grad is not None


def test_a_higher_temperature_softens_the_targets(model: CoCa, batch: Batch) -> None:
    teacher = 10 * torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    names = [name.split(", ")[0] for name in NAMES]
    prompts, weight = ClassPrompts(names, ("{}",), encode_letters), torch.tensor(1 / 6)
    with torch.no_grad():
        embedded, texts = model.encode_image(batch.images), model.encode_text(encode_letters(names))
        sharp, soft = (
            distillation_loss(
                model,
                embedded,
                teacher,
                draw_classes(teacher, prompts, DistillationConfig(classes=7)),
                temperature=temperature,
                image_weight=weight,
            )
            for temperature in (1.0, 1e6)
        )
        student = F.log_softmax(model.logit_scale * embedded @ texts.T, dim=1)
    # Against equal probabilities: the cross-entropy less the entropy.
    assert float(soft) == pytest.approx(float(-student.mean()) - math.log(7), abs=1e-4)
    assert sharp > soft


def test_the_likeliest_classes_are_among_the_sampled() -> None:
    teacher = torch.zeros(4, 50)
    teacher[torch.arange(4), torch.tensor([3, 17, 17, 41])] = 5
    seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        classes = sample_classes(teacher, 10)
        assert classes.shape == (10,)
        assert {3, 17, 41} <= set(classes.tolist())
        assert classes.tolist() == sorted(set(classes.tolist()))
        seen.update(classes.tolist())
    assert len(seen) > 40
    assert sample_classes(teacher, 99).tolist() == list(range(50))
    assert len(sample_classes(teacher, 2)) == 2


def test_each_name_of_a_class_is_drawn_in_each_template() -> None:
    prompts = prompts_of("a {}", "the {}")
    torch.manual_seed(0)
    drawn = [prompts.draw(torch.tensor([2, 0])).tolist() for _ in range(200)]
    expected = [
        encode_letters(
            [f"{start} {name}" for start in ("a", "the") for name in names.split(", ")]
        ).tolist()
        for names in (NAMES[2], NAMES[0])
    ]
    for position, rows in enumerate(expected):
        found = {tuple(it[position][: len(rows[0])]) for it in drawn}
        assert found == {tuple(row) for row in rows}
    assert len(prompts) == len(NAMES)


@pytest.mark.parametrize("templates", [(), ("a photo",)])
def test_templates_without_a_placeholder_for_the_name_are_refused(
    templates: tuple[str, ...],
) -> None:
    with pytest.raises(ConfigError, match=r"distillation.templates must each contain \{\}, got \["):
        DistillationConfig(templates=templates)

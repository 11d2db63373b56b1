import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coca.core.errors import CocaError, ConfigError, DataError
from coca.model.encoders.vit import VisionTransformer
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.train.optim.param_groups import parameter_groups
from coca.workflows.training.finetune import finetune, paced
from tiny_model import write_model
from tiny_run import read_metrics
from tiny_workflows import CLASSES, finetune_recipe, stopping_at, write_classes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("data") / "colors")


def weights(predictor: TorchPredictor) -> dict[str, torch.Tensor]:
    return predictor.model.state_dict()


@pytest.fixture(scope="module")
def finished(model: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = tmp_path_factory.mktemp("runs") / "run"
    return finetune(finetune_recipe(model, image_folder, run, "train.steps=60"))


def test_a_model_learns_its_classes_and_answers_by_its_head(
    finished: Any, image_folder: Path
) -> None:
    (score,) = finished.scores
    assert score.metrics["top1"] == 1
    assert score.metrics["chance_top1"] == score.metrics["majority_top1"] == 0.25
    predictor = load_coca(finished.model, device="cpu")
    assert predictor.classes == tuple(sorted(CLASSES))
    answers = predictor.answer([next((image_folder / color).iterdir()) for color in CLASSES])
    assert [best[0].label for best in answers] == list(CLASSES)
    assert sum(one.probability for one in answers[0]) == pytest.approx(1)


def test_a_run_leaves_its_records(finished: Any) -> None:
    record = json.loads((finished.run / "record.json").read_text())["starts"][0]
    adopted = record["model"]
    assert adopted["left"] == []
    assert all(name.startswith("head.") for name in adopted["new"])
    report = json.loads((finished.run / "scores" / "report.json").read_text())
    assert report["tasks"][0]["metrics"]["top1"] == 1
    assert report["tasks"][0]["samples"] == 12


def test_a_frozen_encoder_stays_as_it_was(model: Path, image_folder: Path, tmp_path: Path) -> None:
    result = finetune(
        finetune_recipe(model, image_folder, tmp_path / "run", "encoder_lr=0", "evaluate=[]")
    )
    before, after = (load_coca(it, device="cpu") for it in (model, result.model))
    for name, tensor in weights(before).items():
        assert torch.equal(tensor, weights(after)[name]), name
    assert weights(after)["head.linear.weight"].any()


def test_head_and_encoder_learn_at_their_own_pace(finished: Any, model: Path) -> None:
    config = finetune_recipe(model, finished.run, finished.run, "encoder_lr=0.002")
    optimizer = paced(config.train, config.encoder_lr).optimizer
    network = load_coca(finished.model, device="cpu").model
    groups = parameter_groups(network, 0.01, groups=optimizer.groups)
    rates = {name: optimizer.lr * g["lr_scale"] for g in groups for name in g["names"]}
    assert rates.keys() == dict(network.named_parameters()).keys()
    for name, rate in rates.items():
        assert rate == pytest.approx(0.01 if name.startswith("head.") else 0.002), name


def test_adapters_learn_in_place_of_the_weights_and_are_merged(
    model: Path, image_folder: Path, tmp_path: Path
) -> None:
    settings = ("lora.rank=2", "lora.match=[image_encoder.*.qkv]", "train.ema.decay=0.5")
    result = finetune(
        finetune_recipe(model, image_folder, tmp_path / "run", *settings, "encoder_lr=0.01")
    )
    before, after = (weights(load_coca(it, device="cpu")) for it in (model, result.model))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "image_encoder" in name and "qkv" in name}
    for name in changed:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 2


@pytest.mark.slow
def test_a_stopped_run_ends_as_one_that_was_not(
    model: Path, image_folder: Path, tmp_path: Path
) -> None:
    # Embeds each batch without gradients first, where a copy of the weights could serve.
    parts = ("train.micro_batch=2", "loss.contrastive_weight=1", "encoder_lr=0.01")
    settings = ("evaluate=[]", "train.ema.decay=0.9", *parts)
    whole = finetune(finetune_recipe(model, image_folder, tmp_path / "whole", *settings))
    broken = finetune_recipe(model, image_folder, tmp_path / "broken", *settings)
    with stopping_at(7):
        assert finetune(broken).interrupted
    resumed = finetune(broken)
    assert (resumed.step, resumed.interrupted) == (12, False)
    first, second = (weights(load_coca(it.model, device="cpu")) for it in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_random_weights_have_the_shape_and_nothing_else(
    model: Path, image_folder: Path, tmp_path: Path
) -> None:
    result = finetune(
        finetune_recipe(
            model, image_folder, tmp_path / "run", "weights=random", "encoder_lr=0", "evaluate=[]"
        )
    )
    before, after = (weights(load_coca(it, device="cpu")) for it in (model, result.model))
    name = "image_encoder.patch_embedding.weight"
    assert before[name].shape == after[name].shape
    assert not torch.allclose(before[name], after[name], atol=0.1)


@pytest.mark.slow
def test_a_head_that_reads_text_is_trained_together_with_generation(
    model: Path, tmp_path: Path, image_folder: Path
) -> None:
    asked = [(color, "which color", color) for color in CLASSES[:2]]
    asked += [(color, "how many squares", "one") for color in CLASSES[:2]]
    files = {color: next((image_folder / color).iterdir()) for color in CLASSES[:2]}
    table = tmp_path / "asked.jsonl"
    table.write_text(
        "\n".join(
            json.dumps({"image": str(files[color]), "question": text, "answers": [answer] * 3})
            for color, text, answer in asked
        )
    )
    config = finetune_recipe(
        model,
        table,
        tmp_path / "run",
        "evaluate=[]",
        "head.reads=text",
        "head.heads=3",
        "data.sources.0.kind=manifest",
        "data.sources.0.text=question",
        "data.loader.class_from=answers",
        "loss.captioning_weight=1",
        "train.steps=60",
    )
    result = finetune(config)
    assert result.metrics.keys() >= {"captioning", "classification"}
    predictor = load_coca(result.model, device="cpu")
    assert predictor.classes == ("1", "green", "red")
    answers = predictor.answer(
        [files[color] for color, _, _ in asked], [text for _, text, _ in asked]
    )
    assert [best[0].label for best in answers] == ["red", "green", "1", "1"]


def nothing_was_begun(run: Path) -> bool:
    return not (run / "record.json").exists()


@pytest.mark.parametrize(
    ("overrides", "kind", "sentence"),
    [
        (["head.heads=5"], ConfigError, "does not fit .*heads 5 do not divide width 32"),
        (["head=null"], ConfigError, "set both or neither"),
        (["loss.captioning_weight=1", "head.reads=text"], ConfigError, "text: question"),
        (["lora.match=[nothing]"], ConfigError, "matches no linear layer"),
        (
            ["head.classes=[red,blue]"],
            DataError,
            "2 classes that training has not, such as 'green'",
        ),
        (["evaluate.0.task=recognise"], ConfigError, "did you mean 'recognition'"),
        (["model=nowhere"], CocaError, "nowhere is not a model folder"),
        (["data.loader.class_names=[a]"], ConfigError, "follow from the head"),
    ],
)
def test_an_impossible_recipe_is_reported_before_any_work(
    model: Path,
    image_folder: Path,
    tmp_path: Path,
    overrides: list[str],
    kind: type[CocaError],
    sentence: str,
) -> None:
    run = tmp_path / "run"
    with pytest.raises(kind, match=sentence):
        finetune(finetune_recipe(model, image_folder, run, *overrides))
    assert nothing_was_begun(run)


def test_an_empty_split_is_reported_before_any_work(
    model: Path, image_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for setting in ("data.sources.0.path", "evaluate.0.data.path"):
        with pytest.raises(DataError, match="empty has no sample"):
            finetune(
                finetune_recipe(
                    model, image_folder, tmp_path / "run", f"{setting}={tmp_path}/empty"
                )
            )
    assert nothing_was_begun(tmp_path / "run")


def test_a_run_refuses_to_go_on_with_classes_chosen_otherwise(
    finished: Any, model: Path, image_folder: Path
) -> None:
    other = finetune_recipe(model, image_folder, finished.run, "head.at_least=2", "train.steps=60")
    with pytest.raises(ConfigError, match=r"was started with head .* use another folder for the"):
        finetune(other)


def test_a_run_that_never_began_leaves_no_classes_to_the_next(
    model: Path, image_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = ("train.steps=1", "evaluate=[]")
    with pytest.raises(ConfigError, match="there is only one process"):
        finetune(
            finetune_recipe(
                model, image_folder, run, "head.most_frequent=2", "train.parallel=ddp", *settings
            )
        )
    result = finetune(finetune_recipe(model, image_folder, run, *settings))
    assert load_coca(result.model, device="cpu").classes == tuple(sorted(CLASSES))


def test_data_of_one_class_are_reported(model: Path, image_folder: Path, tmp_path: Path) -> None:
    red = tmp_path / "one" / "red"
    red.mkdir(parents=True)
    (red / "1.png").write_bytes(next((image_folder / "red").iterdir()).read_bytes())
    with pytest.raises(DataError, match="only the label 'red'; a head needs two"):
        finetune(finetune_recipe(model, tmp_path / "one", tmp_path / "run"))


@pytest.mark.parametrize(
    "settings",
    [
        ("encoder_lr=0",),
        ("lora.rank=2", "lora.match=[unimodal_decoder]", "loss.contrastive_weight=1"),
    ],
    ids=["head", "adapters"],
)
def test_a_head_on_cached_features_equals_a_head_on_images(
    settings: tuple[str, ...],
    model: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen = (*settings, "evaluate=[]")
    cached = (*frozen, f"data.features.folder={tmp_path / 'features'}")
    for name, changes in (("plain", frozen), ("cached", cached)):
        finetune(finetune_recipe(model, image_folder, tmp_path / name, *changes))
    one, other = (read_metrics(tmp_path / run) for run in ("cached", "plain"))
    for row, expected in zip(one, other, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-3)

    def never(*_: Any) -> None:
        raise AssertionError("the encoder runs although all features are there")

    # Only the shape of the features is computed, from one blank image.
    features = VisionTransformer.features
    monkeypatch.setattr(
        VisionTransformer,
        "features",
        lambda self, images: features(self, images) if len(images) == 1 else never(),
    )
    finetune(finetune_recipe(model, image_folder, tmp_path / "again", *cached))
    first, again = (weights(load_coca(tmp_path / it, device="cpu")) for it in ("cached", "again"))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["encoder_lr=0.001"], r"add image_encoder to train\.optimizer\.freeze"),
        (["lora.rank=2"], r"leave image_encoder out of lora\.match"),
    ],
)
def test_a_head_that_cannot_use_features_is_refused(
    changes: list[str], complaint: str, model: Path, image_folder: Path, tmp_path: Path
) -> None:
    features = f"data.features.folder={tmp_path / 'features'}"
    with pytest.raises(ConfigError, match=complaint):
        finetune(finetune_recipe(model, image_folder, tmp_path / "run", features, *changes))

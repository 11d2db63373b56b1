import json
import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from coca.core.config.frozen_config import load_config
from coca.core.errors import ConfigError, DataError
from coca.model.encoders.vit import VisionTransformer
from coca.predict.torch_loading import load_coca
from coca.train.distributed.context import DistributedContext
from coca.workflows.training.pretrain import PretrainConfig, pretrain
from coca.workflows.training.training_run import RunResult
from tiny_ranks import on_ranks
from tiny_run import newest, read_metrics, same
from tiny_workflows import NAMES, recipe, run_on_this_rank, write_squares


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A finished run of the recipe without changes, next to its images; tests only read it."""
    root = tmp_path_factory.mktemp("finished")
    return pretrain(recipe(write_squares(root / "pictures"), root / "run"))


def as_finished(finished: RunResult, *changes: str) -> PretrainConfig:
    """The recipe of the finished run, with changes."""
    return recipe(finished.run.with_name("pictures"), finished.run, *changes)


def shipped(run: Path) -> dict[str, Tensor]:
    """The weights in the folder of the finished model."""
    return load_file(run / "model" / "model.safetensors")


def kept(run: Path, group: str = "model") -> dict[str, Tensor]:
    return newest(run).group(group)


def test_a_run_leaves_a_model_that_loads_from_its_folder_alone(
    finished: RunResult, images: Path
) -> None:
    assert (finished.step, finished.interrupted) == (12, False)
    assert finished.metrics["loss"] > 0
    predictor = load_coca(finished.model)
    assert predictor.embed_images(sorted(images.glob("*.png"))[:2]).shape == (2, 32)
    assert load_coca(finished.run).fingerprint == predictor.fingerprint
    assert {path.suffix for path in finished.model.iterdir()} == {".json", ".safetensors", ".txt"}


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("train.optimizer.name=adam", "unknown optimizer 'adam'; did you mean 'adamw'"),
        (
            "eval={tasks: [{task: zeroshot, data: {kind: folder, path: photos}}]}",
            "unknown task 'zeroshot'; did you mean 'zero_shot'",
        ),
        ("train.trackers=[jsonlines]", "unknown tracker 'jsonlines'; did you mean 'jsonl'"),
    ],
)
def test_unknown_names_are_refused_before_data_is_opened(
    tmp_path: Path, setting: str, fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        recipe(tmp_path / "absent", tmp_path / "run", setting)


@pytest.mark.parametrize(
    ("setting", "ranks", "fault"),
    [
        ("device=cuda0", 1, "device 'cuda0' cannot be used here .*; cpu can"),
        ("train.parallel=fsdp", 1, "there is only one process"),
        ("train.parallel=none", 2, "2 processes take part"),
        ("data.loader.batch_size=4", 3, "batch_size 4 is not divisible by 3 ranks"),
    ],
)
def test_a_device_or_ranks_that_do_not_fit_are_refused_before_data_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, ranks: int, fault: str
) -> None:
    monkeypatch.setattr(DistributedContext, "current", lambda: DistributedContext(0, ranks))
    # Not the fault of a group of ranks that does not exist.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: ranks > 1)
    with pytest.raises(ConfigError, match=fault):
        pretrain(recipe(tmp_path / "absent", tmp_path / "run", setting))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_longer_run_learns_to_distinguish_the_colours(images: Path, tmp_path: Path) -> None:
    result = pretrain(
        recipe(images, tmp_path / "run", "train.steps=150", "data.loader.batch_size=12")
    )
    predictor = load_coca(result.model)
    found = predictor.classify([images / f"{number}.png" for number in range(4)], NAMES)
    assert [predictions[0].label for predictions in found] == list(NAMES)
    captions = predictor.caption([images / f"{number}.png" for number in range(4)])
    assert [caption.text for caption in captions] == list(NAMES)


def test_a_finished_run_is_reported_and_trains_nothing(
    finished: RunResult, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_coca(finished.model).fingerprint
    again = pretrain(as_finished(finished))
    assert "was finished before: all of its 12 steps are done, so nothing was" in caplog.text
    assert (again.step, again.metrics) == (12, finished.metrics)
    assert load_coca(again.model).fingerprint == before
    assert [row["step"] for row in read_metrics(finished.run)] == [4, 8, 12]
    starts = json.loads((finished.run / "record.json").read_text())["starts"]
    assert [start["seed"] for start in starts] == [0, 0]


def test_the_finished_model_is_made_of_the_averages_if_they_are_kept(
    finished: RunResult, images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pretrain(recipe(images, run, "train.ema.decay=0.9"))
    assert same(shipped(run), kept(run, "ema"))
    assert not same(shipped(run), kept(run))
    (start,) = json.loads((run / "record.json").read_text())["starts"]
    assert start["model_weights"].startswith("averages over the run (decay 0.9)")
    assert same(shipped(finished.run), kept(finished.run))
    # The run itself is not changed by being averaged.
    assert same(kept(finished.run), kept(run))


def test_the_folder_records_what_was_run(finished: RunResult) -> None:
    kept = json.loads((finished.run / "recipe.json").read_text())
    assert load_config(PretrainConfig, kept) == as_finished(finished)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("seed=1", "use another folder for the new run"),
        ("tokenizer.lowercase=false", "use another folder for the new run"),
        ("model.initial_temperature=0.1", "is of another model"),
    ],
)
def test_a_run_refuses_to_go_on_as_another_and_records_nothing(
    finished: RunResult, change: str, complaint: str
) -> None:
    records = [finished.run / name for name in ("recipe.json", "record.json")]
    before = [path.read_bytes() for path in records]
    with pytest.raises(ConfigError, match=complaint):
        pretrain(as_finished(finished, change))
    assert [path.read_bytes() for path in records] == before


def test_changed_data_settings_are_reported(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrain(recipe(images, tmp_path / "run", "train.steps=5"))
    with caplog.at_level(logging.WARNING):
        pretrain(recipe(images, tmp_path / "run", "data.augment.flip=0.5"))
    assert "resumes with changed settings of data" in caplog.text


def test_classes_can_be_named_with_captions(images: Path, tmp_path: Path) -> None:
    rows = [f"{path},an image,{'ab'[n % 2]}" for n, path in enumerate(images.glob("*.png"))]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["image,caption,label", *rows]), encoding="utf-8")
    result = pretrain(
        recipe(
            images,
            tmp_path / "run",
            f"data.sources=[{{kind: manifest, path: {table}}}]",
            "loss.classification_weight=1",
            "model.head={classes: [a, b], heads: 1}",
        )
    )
    assert result.metrics.keys() >= {"contrastive", "captioning", "classification"}
    assert load_coca(result.model).classes == ("a", "b")


@pytest.mark.parametrize("start", ["tokenizer.path={}/tokenizer.json", "init_from={}"])
def test_a_tokenizer_larger_than_the_model_is_refused(
    finished: RunResult, images: Path, tmp_path: Path, start: str
) -> None:
    changes = (start.format(finished.run), "model.text.vocab_size=200")
    with pytest.raises(ConfigError, match=r"raise it to \d+"):
        pretrain(recipe(images, tmp_path / "next", *changes))


HEAD = "model.head={classes: [cat, dog], heads: 1}"
CLASSES = "loss.classification_weight=1"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["data.sources=[]"], r"^data\.sources must be a list of at least 1"),
        (["threads=-1"], "threads must be"),
        (["init_from=a", "tokenizer.path=b"], "set one of the two"),
        (["run=s3://bucket/run"], "it must be a folder of a file system"),
        (["train.fsdp.replicas=2"], "train.fsdp is set, but train.parallel is auto"),
        (["lora.rank=1"], "adapts the weights of another model"),
        ([CLASSES], "set both or neither"),
        ([HEAD], "set both or neither"),
        ([CLASSES, HEAD, "model.head.reads=text"], "must read image and 1 image when trained"),
        ([CLASSES, HEAD, "data.loader.class_names=[cat, dog]"], "follow from the head; set model"),
        (["loss.contrastive=sigmoid"], "sigmoid loss needs a bias, -10 in SigLIP"),
        (["model.initial_bias=-10"], "sigmoid loss needs a bias, -10 in SigLIP"),
        (
            ["data.resolution=[{until: 0.5, image_size: 20}]"],
            "20 px, no multiple.* near sizes that fit: 16, 24",
        ),
        (["data.resolution=[{until: 0.5, image_size: 4}]"], "near sizes that fit: 8"),
        (
            ["data.resolution=[{until: 0.5, image_size: 8}, {until: 0.5, image_size: 24}]"],
            "until 0.5 after 0.5; each `until` must be above the one before",
        ),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(changes: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        recipe(Path("p"), Path("r"), *changes)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        pretrain(recipe(tmp_path / "nowhere", tmp_path / "run"))


def test_stages_of_resolution_end_at_the_size_of_the_processor(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = VisionTransformer.forward

    def watched(self: VisionTransformer, images: Tensor) -> Tensor:
        seen.append(images.shape[-1])
        return forward(self, images)

    monkeypatch.setattr(VisionTransformer, "forward", watched)
    stages = "data.resolution=[{until: 0.25, image_size: 8}, {until: 0.5, image_size: 24}]"
    pretrain(recipe(images, tmp_path / "run", stages))
    assert seen == [8] * 3 + [24] * 3 + [16] * 6
    predictor = load_coca(tmp_path / "run")
    assert predictor.processor.image_config.image_size == 16
    assert predictor.model.config.image.image_size == 16
    # They would end at another step with another batch size.
    larger = recipe(images, tmp_path / "run", stages, "data.loader.batch_size=8")
    with pytest.raises(ConfigError, match=r"with data\.loader\.batch_size 4, now it is 8, but"):
        pretrain(larger)


def test_a_second_stage_begins_where_the_first_ended(images: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    pretrain(recipe(images, first, "train.ema.decay=0.5"))
    changes = (f"init_from={first}", "model.image.image_size=32", "tokenizer.lowercase=false")
    pretrain(recipe(images, second, *changes, "train.steps=3", "train.optimizer.lr=1.0e-12"))
    begun, ended = load_coca(second), load_coca(first)
    # At next to no learning rate it is still the first stage's model, now with larger images.
    assert begun.processor.image_config.image_size == 32
    assert begun.model.state_dict()["image_encoder.positions"].shape == (16, 32)
    for name, tensor in begun.model.state_dict().items():
        if name != "image_encoder.positions":
            torch.testing.assert_close(tensor, ended.model.state_dict()[name])
    words = "a Red square"
    assert begun.processor.tokenizer.encode_prompt(words) == (
        ended.processor.tokenizer.encode_prompt(words)
    )
    (start,) = json.loads((second / "record.json").read_text())["starts"]
    assert start["init_from"]["resized"] == ["image_encoder.positions"]
    assert start["init_from"]["fingerprint"] == ended.fingerprint
    with pytest.raises(ConfigError, match="was started with init_from"):
        pretrain(recipe(images, second, *changes, f"init_from={second}"))


def test_adapters_move_a_model_to_another_domain(
    finished: RunResult, images: Path, tmp_path: Path
) -> None:
    first, second = finished.run, tmp_path / "second"
    changes = (f"init_from={first}", "lora.rank=1", "lora.match=[image_encoder]")
    pretrain(recipe(images, second, *changes))
    before, after = (load_coca(it).model.state_dict() for it in (first, second))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    tables = {name for name in changed if "token_embedding" in name or "vocabulary" in name}
    assert tables
    assert changed > tables
    assert all(name.startswith("image_encoder.") for name in changed - tables)


def test_the_sigmoid_loss_learns_its_bias(images: Path, tmp_path: Path) -> None:
    changes = ("loss.contrastive=sigmoid", "model.initial_bias=-10", "train.steps=3")
    pretrain(recipe(images, tmp_path / "run", *changes))
    assert float(shipped(tmp_path / "run")["logit_bias"]) != -10


@pytest.mark.distributed
def test_ranks_make_one_run(images: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    pretrain(recipe(images, alone, "train.ema.decay=0.5"))
    for result in on_ranks(2, tmp_path, partial(run_on_this_rank, tmp_path)):
        assert int(result.pop("step")) == 12
        for name, tensor in shipped(alone).items():
            # AdamW makes whole updates, here of 3e-3, of gradients that are rounding alone.
            torch.testing.assert_close(result[name], tensor, rtol=0, atol=5e-4)
    (start,) = json.loads((tmp_path / "run" / "record.json").read_text())["starts"]
    assert start["ranks"] == 2
    for mine, theirs in zip(read_metrics(tmp_path / "run"), read_metrics(alone), strict=True):
        assert mine["step"] == theirs["step"]
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)

"""The paper's recipes for video: they have the settings of its Table 9, and run unchanged."""

from pathlib import Path

import pytest

from coca.core.config.frozen_config import load_config
from coca.workflows.evaluation.evaluation_report import benchmark_named
from coca.workflows.training.finetune import FinetuneConfig, finetune
from tiny_model import write_model
from tiny_video import video

RECIPES = Path(__file__).parent.parent.parent / "recipes" / "finetune"

TABLE_9 = {  # encoder's learning rate, label smoothing
    "kinetics400_frozen": (0.0, 0.1),
    "kinetics400_finetuned": (5e-4, 0.1),
    "moments_frozen": (0.0, 0.0),
    "moments_finetuned": (5e-4, 0.0),
}

COLOURS = {"red+light": (220, 20, 20), "blue+light": (20, 20, 220)}


def write_clips(folder: Path, *, header: bool) -> Path:
    """Four clips of two colours, as Kinetics (with a header) or Moments list them."""
    (folder / "videos").mkdir(parents=True)
    lines = ["label,youtube_id,time_start,time_end,split"] if header else []
    for number in range(4):
        label = list(COLOURS)[number % 2]
        name = f"id{number}_000001_000003" if header else f"id{number}"
        content = video(frames=10, colour=COLOURS[label])
        (folder / "videos" / f"{name}.mp4").write_bytes(content)
        lines.append(f"{label},id{number},1,3,train" if header else f"{name}.mp4,{label},3,0")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


@pytest.mark.parametrize("name", TABLE_9)
def test_a_recipe_has_the_settings_of_the_paper(name: str) -> None:
    config = load_config(FinetuneConfig, RECIPES / f"{name}.yaml")
    encoder_lr, smoothing = TABLE_9[name]
    optimizer, schedule = config.train.optimizer, config.train.schedule
    assert (optimizer.name, optimizer.lr, config.encoder_lr) == ("adafactor", 5e-4, encoder_lr)
    assert (optimizer.weight_decay, config.train.grad_clip) == (0.0, 1.0)
    assert config.train.ema is not None
    assert config.train.ema.decay == 0.9999
    assert (schedule.decay, schedule.warmup, schedule.final_lr_fraction) == ("cosine", 1000, 0.0)
    assert (config.loss.class_smoothing, config.data.augment.rand_augment) == (smoothing, None)
    assert (config.train.steps, config.data.loader.batch_size) == (120_000, 128)
    assert config.head is not None
    assert config.head.reads == "image"
    assert config.head.images_per_sample == config.data.sources[0].frames
    assert config.evaluate[0].data.frames == config.head.images_per_sample


@pytest.mark.parametrize("name", TABLE_9)
def test_a_recipe_runs_as_it_is_but_smaller(name: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    table = write_clips(tmp_path / "clips", header=name.startswith("kinetics"))
    where = [
        f"{part}.{field}={value}"
        for part in ("data.sources.0", "evaluate.0.data")
        for field, value in (("path", table), ("images", tmp_path / "clips" / "videos"))
    ]
    config = load_config(
        FinetuneConfig,
        RECIPES / f"{name}.yaml",
        overrides=[
            *where,
            f"run={tmp_path}/run",
            f"model={write_model(tmp_path / 'model')}",
            "head.heads=2",
            "data.loader.batch_size=4",
            "data.loader.workers=0",
            "train.steps=2",
            "train.schedule.warmup=0",
            "train.precision=fp32",
            "device=cpu",
        ],
    )
    (score,) = finetune(config).scores
    assert score.samples == 4
    assert score.metrics["chance_top1"] == 0.5
    report = (tmp_path / "run" / "scores" / "report.md").read_text()
    assert benchmark_named(name).title in report

"""The recipes of published benchmarks fit data in their published form, at the size of a test."""

import json
from pathlib import Path

import pytest

from coca.core.config.frozen_config import load_config
from coca.core.config.recipe import read_recipe
from coca.tasks import TaskConfig
from coca.workflows.evaluation.evaluate import SuiteConfig, evaluate
from coca.workflows.evaluation.evaluation_report import benchmark_named
from tiny_data import image_bytes
from tiny_model import write_model
from tiny_video import video

RECIPES = Path(__file__).parents[2] / "recipes" / "evaluate"


def tasks_of(name: str, *overrides: str) -> tuple[TaskConfig, ...]:
    path = RECIPES / f"{name}.yaml"
    if "tasks" in read_recipe(path):
        return load_config(SuiteConfig, path, overrides=overrides).tasks
    return (load_config(TaskConfig, path, overrides=overrides),)


def put(path: str, number: int) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(image_bytes(number))


def karpathy(root: str, folder: str, name: str) -> None:
    images = []
    for row in range(3):
        put(f"{root}/{folder}/{row}.jpg", row)
        where = {"filepath": folder} if name == "dataset_coco.json" else {}
        sentences = [{"raw": f"a red car {row}"}, {"raw": f"two dogs {row}"}]
        images.append({**where, "filename": f"{row}.jpg", "split": "test", "sentences": sentences})
    Path(root, name).write_text(json.dumps({"images": images}))


def nocaps() -> None:
    images, notes = [], []
    for row, domain in enumerate(("in-domain", "near-domain", "out-domain")):
        put(f"nocaps/images/{row}.jpg", row)
        images.append({"id": row, "file_name": f"{row}.jpg", "domain": domain})
        notes.append({"image_id": row, "caption": f"a red car {row}"})
    content = {"images": images, "annotations": notes}
    Path("nocaps/nocaps_val_4500_captions.json").write_text(json.dumps(content))


def imagenet() -> None:
    for row, folder in enumerate(("n01", "n02")):
        for root in ("imagenet/val", "imagenet-a", "imagenet-r", "sketch"):
            put(f"{root}/{folder}/1.JPEG", row)
        put(f"imagenetv2-matched-frequency-format-val/{row}/1.jpeg", row)
    Path("imagenet/names.json").write_text('{"n01": "tench", "n02": "goldfish"}')
    Path("imagenet/names_in_order.json").write_text('["tench", "goldfish"]')
    for row, folder in enumerate(("banana", "air_freshener")):
        put(f"objectnet-1.0/images/{folder}/1.png", row)
    mappings = Path("objectnet-1.0/mappings")
    mappings.mkdir()
    names = {"banana": "Banana", "air_freshener": "Air freshener"}
    (mappings / "folder_to_objectnet_label.json").write_text(json.dumps(names))
    (mappings / "objectnet_to_imagenet_1k.json").write_text('{"Banana": "banana"}')


def msrvtt() -> None:
    Path("msrvtt/videos").mkdir(parents=True)
    rows = [{"video_id": f"video{row}", "split": "test", "category": 1} for row in range(3)]
    sentences = [{"video_id": f"video{row % 3}", "caption": f"a red car {row}"} for row in range(6)]
    Path("msrvtt/videodatainfo.json").write_text(
        json.dumps({"videos": rows, "sentences": sentences})
    )
    for row in range(3):
        clip = video(frames=8, colour=(60 * row, 20, 90))
        Path(f"msrvtt/videos/video{row}.mp4").write_bytes(clip)


MAKERS = {
    "coco": lambda: karpathy("coco", "val2014", "dataset_coco.json"),
    "flickr30k": lambda: karpathy("flickr30k", "images", "dataset_flickr30k.json"),
    "nocaps": nocaps,
    "imagenet": imagenet,
    "msrvtt": msrvtt,
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_recipe_compares_its_benchmark_with_published_figures(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    MAKERS[name]()
    configs = tasks_of(name, "data_root=.")
    results = evaluate(write_model(tmp_path / "model"), configs, out="out")
    for config, result in zip(configs, results, strict=True):
        assert result.samples
        assert not result.bad
        # What papers compare by is what the published figures are of.
        known = benchmark_named(config.benchmark).metrics if config.benchmark else result.headline
        assert {*result.headline} & {*known}
    report = Path("out/report.md").read_text()
    assert "the paper" in report
    assert all(config.data.title in report for config in configs)

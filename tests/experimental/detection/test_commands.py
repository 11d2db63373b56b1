import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from coca.cli.app import app
from tiny_data import image_bytes
from tiny_detector import write_detector, write_scenes
from tiny_model import write_model

pytest.importorskip("pycocotools", reason="the extra detection is not installed")


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three images and a detector in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_detector(Path("detector"))
    names = [f"{number}.png" for number in range(3)]
    for number, name in enumerate(names):
        Path(name).write_bytes(image_bytes(number))
    return names


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result


def detect(*files: str, code: int = 0) -> Any:
    options = ("--model", "detector", "--threshold", "0.1", "--device", "cpu", "--out", "drawn")
    return json.loads(run("detect", *files, *options, "--json", code=code).stdout)


def test_objects_are_reported_and_drawn(images: list[str]) -> None:
    output = detect(*images)
    assert [entry["path"] for entry in output] == images
    found = output[0]["objects"][0]
    assert found.keys() == {"label", "score", "box"}
    assert 0.1 <= found["score"] <= 1
    assert len(list(Path("drawn").iterdir())) == len(images)
    with Image.open(next(Path("drawn").iterdir())) as drawn:
        assert min(drawn.size) >= 384


def test_a_recipe_trains_a_detector() -> None:
    path = write_scenes(Path("scenes"))
    write_model(Path("model"))
    source = f"{{kind: coco_instances, path: {path}, images: scenes/pictures}}"
    Path("recipe.yaml").write_text(
        "run: run\nmodel: model\nimage_size: 32\ndevice: cpu\n"
        "detector: {channels: 32, scales: [1.0]}\n"
        f"data: {{sources: [{source}], loader: {{batch_size: 6}}}}\n"
        "train: {steps: 2, trackers: []}\n"
        f"evaluate: [{{task: detection, data: {source}}}]\n",
        encoding="utf-8",
    )
    output = json.loads(run("finetune-detection", "recipe.yaml", "--json").stdout)
    assert output["step"] == 2
    assert "AP50" in output["scores"][0]["metrics"]
    assert Path(output["model"], "detector.json").is_file()


def test_the_recipe_of_the_package_is_valid() -> None:
    from coca.core.config.frozen_config import load_config
    from coca.experimental import detection
    from coca.experimental.detection.finetuning import DetectionConfig

    recipe = Path(detection.__file__).with_name("emoji_detection.yaml")
    config = load_config(DetectionConfig, recipe)
    assert [task.task for task in config.evaluate] == ["detection", "detection"]

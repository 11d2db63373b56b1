import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import ConfigError, DataError, MissingExtraError
from coca.data.sample import Sample
from coca.data.sources.annotated import SplitAnnotationsConfig
from coca.data.sources.source import SourceConfig
from coca.metrics.caption_metrics import caption_scores, words
from coca.model.generation.generation_config import GenerationConfig, GenerationOptions
from coca.predict.torch_predictor import TorchPredictor
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.tasks.baselines import without_baselines
from coca.tasks.captioning import meteor, require_meteor
from coca.tasks.task import check_task
from developer_data import sample_file
from tiny_data import CAPTIONS, image_bytes
from tiny_datasets import write_folder

OFFICIAL = "metrics/coco_fakecap_126.json"


@pytest.fixture
def program() -> None:
    pytest.importorskip("pycocoevalcap", reason="METEOR comes with pycocoevalcap, not installed")
    if shutil.which("java") is None:
        pytest.skip("METEOR is a Java program, and there is no Java here")


@pytest.mark.slow
def test_the_score_of_126_real_captions_is_the_official_one(program: None) -> None:
    path = sample_file(OFFICIAL, "comparison with the official scores of 126 captions")
    official = json.loads(path.read_text())
    keys = list(official["refs"])
    found = meteor(
        [words(official["cands"][key]) for key in keys],
        [[words(reference) for reference in official["refs"][key]] for key in keys],
    )
    assert found == pytest.approx(official["scores"]["METEOR"], abs=1e-4)


def test_missing_java_is_reported_before_anything_is_scored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pycocoevalcap", reason="METEOR comes with pycocoevalcap, not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no `java` on the path"):
        require_meteor()


def test_without_its_package_the_pip_command_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.meteor.meteor", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        require_meteor()


def test_a_program_that_dies_is_an_error_and_no_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pycocoevalcap", reason="METEOR comes with pycocoevalcap, not installed")
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ConfigError, match="METEOR program stopped"):
        meteor([["a", "cat"]], [[["a", "dog"]]])


CAPTIONING = TASKS.get("captioning")

# One to three captions an image, all different.
SAMPLES = [
    Sample(
        f"s{number:02d}",
        image_bytes(number),
        captions=tuple(
            f"{CAPTIONS[(number + turn) % 3]} number {number}" for turn in range(1 + number % 3)
        ),
    )
    for number in range(13)
]
IMAGES = [sample.image for sample in SAMPLES]

GREEDY = GenerationConfig(num_beams=1)


def solve(
    predictor: TorchPredictor, root: Path, samples: list[Sample] = SAMPLES, **settings: Any
) -> TaskResult:
    config = TaskConfig(task="captioning", data=write_folder(root, samples), decoding=GREEDY)
    return CAPTIONING(predictor, config.replace(**settings))


def scored(generated: list[str], samples: list[Sample] = SAMPLES) -> dict[str, float]:
    references = [[words(text) for text in sample.captions] for sample in samples]
    return caption_scores([words(text) for text in generated], references)


def scores_of(result: TaskResult) -> dict[str, float]:
    return without_baselines(result.metrics)


@pytest.fixture
def perfect(predictor: TorchPredictor, monkeypatch: pytest.MonkeyPatch) -> TorchPredictor:
    """A predictor that generates an image's first caption."""
    captions = {sample.image: sample.captions[0] for sample in SAMPLES}
    one = predictor.caption(image_bytes(0), num_beams=1)[0]

    def caption(images: list[bytes], **options: Any) -> list[Any]:
        return [dataclasses.replace(one, text=captions[image]) for image in images]

    monkeypatch.setattr(predictor, "caption", caption)
    return predictor


def test_captions_are_scored_against_all_that_people_wrote(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    generated = [caption.text for caption in predictor.caption(IMAGES, num_beams=1)]
    result = solve(predictor, tmp_path)
    assert scores_of(result) == pytest.approx(scored(generated))
    assert result.samples == 13


def test_options_of_decoding_and_the_prompt_reach_the_model(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    options: GenerationOptions = {"num_beams": 3, "max_new_tokens": 4, "no_repeat_ngram_size": 1}
    generated = [caption.text for caption in predictor.caption(IMAGES, prompt="a", **options)]
    result = solve(predictor, tmp_path, prompt="a", decoding=GenerationConfig(**options))
    assert scores_of(result) == pytest.approx(scored(generated))
    assert all(example["generated"].startswith("a") for example in result.details["examples"])


def test_chance_is_the_score_of_the_same_captions_on_other_images(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    generated = [caption.text for caption in predictor.caption(IMAGES, num_beams=1)]
    metrics = solve(predictor, tmp_path).metrics
    moved = scored(generated[6:] + generated[:6])
    assert {name: metrics[f"chance_{name}"] for name in moved} == pytest.approx(moved)


def test_a_single_image_has_no_chance_to_compare_with(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    result = solve(predictor, tmp_path, limit=1)
    assert result.samples == 1
    assert scores_of(result) == result.metrics
    assert not result.intervals


def test_a_report_gets_the_best_and_the_worst_captions(
    perfect: TorchPredictor, tmp_path: Path
) -> None:
    wrong = [
        dataclasses.replace(it, captions=("nothing of this kind",)) if row in (3, 8) else it
        for row, it in enumerate(SAMPLES)
    ]
    details = json.loads(json.dumps(solve(perfect, tmp_path, wrong).details))
    examples = details["examples"]
    assert [example["key"] for example in examples[-2:]] == ["s03", "s08"]
    assert examples[-1]["cider"] == 0
    assert examples[-1]["captions"] == ["nothing of this kind"]
    scores = [example["cider"] for example in examples]
    assert scores == sorted(scores, reverse=True)
    assert len(examples) == 10
    assert len(solve(perfect, tmp_path, wrong, limit=4).details["examples"]) == 4
    assert details["different"] == 13


def test_an_image_without_a_caption_is_an_error(predictor: TorchPredictor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"captioning needs one for each") as it:
        solve(predictor, tmp_path, [*SAMPLES, Sample("silent", image_bytes(99))])
    assert it.value.reason == "no_caption"


def nocaps(root: Path, domains: list[str]) -> SourceConfig:
    images = [
        {"id": row, "file_name": f"{row}.png", **({"domain": name} if name else {})}
        for row, name in enumerate(domains)
    ]
    notes = [
        {"image_id": row, "caption": text}
        for row, _ in enumerate(domains)
        for text in SAMPLES[row].captions
    ]
    for row, _ in enumerate(domains):
        (root / f"{row}.png").write_bytes(SAMPLES[row].image)
    (root / "nocaps.json").write_text(json.dumps({"images": images, "annotations": notes}))
    return SplitAnnotationsConfig(kind="coco_captions", path=str(root / "nocaps.json"))


def test_groups_are_scored_as_corpora_of_their_own(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    data = nocaps(tmp_path, ["in", "out", "in", "in", "out"])
    config = TaskConfig(task="captioning", data=data, decoding=GREEDY, groups="domain")
    metrics = CAPTIONING(predictor, config).metrics
    rows = [1, 4]
    generated = [
        caption.text for caption in predictor.caption([IMAGES[it] for it in rows], num_beams=1)
    ]
    alone = scored(generated, [SAMPLES[it] for it in rows])
    assert metrics["cider/out"] == pytest.approx(alone["cider"])
    assert {name for name in metrics if "/" in name} == {
        "cider/in", "cider/out", "bleu@4/in", "bleu@4/out"
    }  # fmt: skip


def test_a_sample_without_a_group_is_reported_before_the_work(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    data = nocaps(tmp_path, ["in", ""])
    config = TaskConfig(task="captioning", data=data, groups="domain")
    with pytest.raises(DataError, match=r"1 samples of .* have no 'domain', such as 1"):
        check_task(predictor, config)


def test_meteor_is_scored_where_it_is_asked_for(
    predictor: TorchPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coca.tasks.captioning.meteor", lambda generated, references: 0.25)
    result = solve(predictor, tmp_path, meteor=True)
    assert result.metrics["meteor"] == 0.25
    assert "meteor" in result.headline

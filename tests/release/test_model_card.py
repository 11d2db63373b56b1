import json
import re
from pathlib import Path

import pytest
import yaml

from coca.core.errors import ModelError
from coca.model.coca_config import HeadConfig
from coca.model.pretrained import save_model
from coca.predict.torch_loading import fingerprint
from coca.processing.caption_words import CaptionWords
from coca.release.model_card import DataLine, ResultTable, model_card, results_of
from tiny_data import image_bytes
from tiny_model import answering, write_model
from tiny_openclip import write_open_clip

RESULTS = ResultTable(
    "Retrieval on 9 drawings", ("score", "value"), [["recall@1", "0.5"], ["a|b", "1"]], "seed 0"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "small")


def front(card: str) -> dict[str, object]:
    match = re.match(r"---\n(.*?)\n---\n\n# ", card, re.DOTALL)
    assert match is not None
    content: dict[str, object] = yaml.safe_load(match[1])
    return content


def test_the_front_matter_is_what_the_hub_reads(folder: Path) -> None:
    card = model_card(
        folder, title="Small", intended_use="Tests.", results=[RESULTS], licence="cc-by-4.0"
    )
    about = front(card)
    assert about["license"] == "cc-by-4.0"
    assert about["library_name"] == "coca-captioners"
    assert isinstance(about["tags"], list)
    assert "coca" in about["tags"]
    assert about["metrics"] == ["recall@1", "a|b"]


def test_the_card_holds_what_it_was_given_and_what_the_folder_holds(folder: Path) -> None:
    card = model_card(
        folder,
        title="Small",
        intended_use="For tests.",
        data=[DataLine(name="drawings", size="9 of them", terms="CC0")],
        training="Ten steps.",
        results=[RESULTS],
        limits="Everything.",
    )
    for text in (
        "# Small",
        "For tests.",
        "| drawings | 9 of them | CC0 |",
        "## Training\n\nTen steps.",
        "Retrieval on 9 drawings\n\n| score | value |",
        "| a\\|b | 1 |",
        "seed 0",
        "## Limits\n\nEverything.",
        "| images | 16 px |",
        "| vectors | 24 numbers |",
        f"`{fingerprint(folder)}`",
        'coca.load("small")',
    ):
        assert text in card


def test_what_is_not_known_is_not_in_the_card(folder: Path) -> None:
    card = model_card(folder, title="Small", intended_use="Tests.", load_as="hf:a/b")
    assert "metrics" not in front(card)
    assert not [name for name in ("Data", "Training", "Results", "Limits") if f"## {name}" in card]
    assert 'coca.load("hf:a/b")' in card


def test_open_weights_record_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coca.predict.open_weights import model_folder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = model_folder(write_open_clip(tmp_path / "theirs"))
    card = model_card(folder, title="Theirs", intended_use="Tests.")
    assert "| source | `open_clip_pytorch_model.bin` |" in card
    assert "OpenCLIP's CoCa" in card
    assert "open_clip" in str(front(card)["tags"])


def test_a_folder_without_a_model_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a model folder"):
        model_card(tmp_path, title="None", intended_use="None.")


def test_scores_of_a_report_come_with_interval_chance_and_strongest_baseline(
    tmp_path: Path,
) -> None:
    task = {
        "task": "zero_shot",
        "samples": 600,
        "metrics": {"top1": 0.5, "chance_top1": 0.003, "majority_top1": 0.01, "encoder_top1": 0.9},
        "intervals": {"top1": [0.46, 0.54]},
        "config": {"data": {"name": "photos"}},
        "record": {"started": "2026-11-28", "machine": {"cores": 2, "cpu": "x"}, "code": None},
    }
    (tmp_path / "report.json").write_text(json.dumps({"fingerprint": "f", "tasks": [task]}))
    (table,) = results_of(tmp_path, of="f")
    assert table.columns == ("score", "value", "95 %", "by chance", "strongest baseline")
    assert table.rows == [["top1", "0.5", "0.46 to 0.54", "0.003", "0.9 (encoder alone)"]]


def test_the_card_counts_the_words_of_captions(tmp_path: Path) -> None:
    words = CaptionWords.of(["cat", "dog", "ugly"])
    card = model_card(write_model(tmp_path, words=words), title="Listed", intended_use="Tests.")
    assert "| words of captions | 3, 1 of them withheld |" in card


@pytest.mark.parametrize(
    ("head", "lines"),
    [
        (
            HeadConfig(classes=("cat", "dog"), heads=2),
            [
                "| head | 2 classes; reads images |",
                "The head chooses among 2: `cat`, `dog`.",
                'model.classify(["photo.jpg"])',
                "coca classify photo.jpg --model answers",
            ],
        ),
        (
            HeadConfig(classes=tuple(f"c{n}" for n in range(102)), reads="text", heads=3),
            ["| head | 102 classes; reads images and a text |", "`c99` and 2 more;", "answer(["],
        ),
        (
            HeadConfig(classes=("yes", "no"), reads="text", images_per_sample=2, heads=3),
            ["images and a text, 2 a sample |", 'model.answer([["1.jpg", "2.jpg"]], ["both show'],
        ),
    ],
)
def test_the_card_of_a_fine_tuned_model_has_its_head_and_an_example(
    tmp_path: Path, head: HeadConfig, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = answering(head)
    save_model(tmp_path / "answers", predictor.model)
    predictor.processor.save(tmp_path / "answers")
    card = model_card(tmp_path / "answers", title="Answers", intended_use="Tests.")
    assert [line for line in lines if line not in card] == []
    for name in ("photo.jpg", "1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(image_bytes(0))
    monkeypatch.chdir(tmp_path)
    program = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert program is not None
    exec(program[1], {"print": lambda *words: words})

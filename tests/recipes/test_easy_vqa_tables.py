import json
from pathlib import Path

import pytest

from coca.core.errors import DataError, MissingExtraError
from coca.data.sources.factory import open_source
from coca.data.sources.table_source import ManifestConfig
from easy_vqa_tables import main, rows
from tiny_data import image_bytes


def test_a_question_has_its_answer_and_image(tmp_path: Path) -> None:
    (tmp_path / "test" / "images").mkdir(parents=True)
    (tmp_path / "test" / "images" / "3.png").write_bytes(image_bytes(3))
    asked = [["what color is it?", "red", 3], ["is it a circle?", "yes", 3]]
    (tmp_path / "test" / "questions.json").write_text(json.dumps(asked))
    table = tmp_path / "test.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows(tmp_path / "test")))
    sample = open_source(ManifestConfig(path=str(table))).read(1)
    assert (sample.key, sample.text, sample.answers) == ("test-3-1", "is it a circle?", ("yes",))
    assert sample.image == image_bytes(3)
    (tmp_path / "test" / "questions.json").write_text('[["a", "b"]]')
    with pytest.raises(DataError, match=r"questions\.json cannot be read"):
        list(rows(tmp_path / "test"))


def test_the_tables_have_all_questions_of_the_package(tmp_path: Path) -> None:
    pytest.importorskip("easy_vqa", reason="the package easy-vqa is not installed")
    main([str(tmp_path / "tables")])
    for part, questions in (("train", 38_575), ("test", 9_673)):
        source = open_source(ManifestConfig(path=str(tmp_path / "tables" / f"{part}.jsonl")))
        assert len(source) == questions
        assert source.read(questions - 1).image.startswith(b"\x89PNG")
    assert len({source.read_metadata(row).key for row in range(len(source))}) == 9_673
    assert len({source.read_metadata(row).answers[0] for row in range(len(source))}) == 13


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "easy_vqa", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[vqa\]"):
        main([str(tmp_path)])

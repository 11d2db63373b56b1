from pathlib import Path

import pytest

from coca.cli.options.recipes import Settings, has_section, require_data_root
from coca.core.errors import ConfigError


def test_recipes_and_changes_are_distinguished_in_any_order() -> None:
    given = Settings.of(["a.yaml", "train.steps=1", "b/c=d.yaml", "data.sources.0.path=x=y"])
    assert given.recipes == ("a.yaml", "b/c=d.yaml")
    assert given.changes == ("train.steps=1", "data.sources.0.path=x=y")


def test_a_file_whose_name_looks_like_a_change_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=1.yaml").write_text("seed: 1", encoding="utf-8")
    assert Settings.of(["lr=1.yaml", "lr=2.yaml"]).recipes == ("lr=1.yaml",)


def test_a_section_is_found_in_recipes_and_in_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("with.yaml").write_text("detector: {channels: 32}", encoding="utf-8")
    Path("without.yaml").write_text("head: {heads: 2}", encoding="utf-8")
    Path("broken.yaml").write_text("{", encoding="utf-8")
    assert has_section(Settings.of(["without.yaml", "with.yaml"]), "detector")
    assert has_section(Settings.of(["without.yaml", "detector.channels=64"]), "detector")
    assert not has_section(Settings.of(["without.yaml", "broken.yaml", "gone.yaml"]), "detector")


SUITE = """data_root: data
tasks:
- task: retrieval
  data: {kind: shards, path: "${data_root}/x.tar"}
"""


def test_a_folder_of_data_that_is_not_there_is_reported_with_the_variable_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("suite.yaml").write_text(SUITE, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"suite.yaml reads .* folder data, .* data_root=FOLDER"):
        require_data_root(["suite.yaml"], [])
    with pytest.raises(ConfigError, match="folder mine"):
        require_data_root(["suite.yaml"], ["data_root=mine", "limit=5"])
    # Elsewhere, there, not read, or to be found wrong by whoever loads it.
    Path("mine").mkdir()
    for changes in (["data_root=mine"], ["data_root=s3://bucket"], ["data.path=y.tar"], ["x"]):
        require_data_root(["suite.yaml"], changes)
    require_data_root(["gone.yaml"], [])

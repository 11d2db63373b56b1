from pathlib import Path

import pytest

from coca.cli.options.recipes import Settings, load, recipe_path
from coca.core.errors import ConfigError
from coca.workflows.evaluation.evaluate import SuiteConfig


def test_a_file_whose_name_looks_like_a_change_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=1.yaml").write_text("seed: 1", encoding="utf-8")
    assert Settings.of(["lr=1.yaml", "lr=2.yaml"]).recipes == ("lr=1.yaml",)


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

    def check(*changes: str) -> None:
        load(SuiteConfig, Settings.of(["suite.yaml", *changes]), find_data=True)

    with pytest.raises(ConfigError, match=r"^the recipe reads .* folder data, .* data_root=FOLDER"):
        check()
    with pytest.raises(ConfigError, match=r"(?s)^tasks.0.limit must .*\n.* folder mine"):
        check("data_root=mine", "tasks.0.limit=x")
    # Elsewhere, there, or not read.
    Path("mine").mkdir()
    for change in ("data_root=mine", "data_root=s3://bucket", "tasks.0.data.path=y.tar"):
        check(change)


def test_a_recipe_of_the_package_is_given_by_its_name() -> None:
    path = Path(recipe_path("recipe:emoji"))
    assert path.parts[-2:] == ("pretrain", "emoji.yaml")
    assert recipe_path("recipe:pretrain/emoji.yaml") == str(path)
    assert Settings.of(["recipe:emoji", "seed=1"]) == Settings((str(path),), ("seed=1",))
    assert recipe_path("recipe.yaml") == "recipe.yaml"
    with pytest.raises(ConfigError, match="recipe:evaluate/nocaps or recipe:finetune/nocaps"):
        recipe_path("recipe:nocaps")
    for folder in ("finetune", "evaluate"):
        path = Path(recipe_path("recipe:nocaps", folder))
        assert path.parts[-2:] == (folder, "nocaps.yaml")
        assert Settings.of(["recipe:nocaps"], folder=folder).recipes == (str(path),)
        with pytest.raises(ConfigError, match=rf"package has recipe:{folder}/nocaps$"):
            recipe_path("nocaps", folder)
    assert recipe_path("recipe:emoji", "evaluate") == recipe_path("recipe:emoji")
    with pytest.raises(ConfigError) as unlike:
        recipe_path("recipe:qqq")
    assert str(unlike.value).count("flickr8k_joint") <= 1
    assert "/" not in str(unlike.value)
    with pytest.raises(ConfigError, match="no recipe 'emojy'; did you mean 'emoji'"):
        recipe_path("recipe:emojy")
    # A name without `recipe:`, and a path of the clone from elsewhere.
    with pytest.raises(
        ConfigError, match="emoji does not exist; the package has recipe:pretrain/emoji"
    ):
        recipe_path("emoji")
    with pytest.raises(ConfigError, match=r"package has recipe:pretrain/coca_base$"):
        recipe_path("elsewhere/recipes/pretrain/coca_base.yaml")
    assert recipe_path("absent.yaml") == "absent.yaml"
    # The task of this name takes precedence.
    assert Settings.of(["nlvr2"], names=["nlvr2"]).recipes == ("nlvr2",)

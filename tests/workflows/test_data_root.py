"""The recipes read their data below one folder, which `data_root=FOLDER` moves: all of it."""

import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from coca.cli.options.recipes import for_all_tasks
from coca.core.config.fields import Tree
from coca.core.config.frozen_config import load_config
from coca.core.config.recipe import read_recipe
from coca.data.sources.factory import open_source
from coca.data.sources.source import SourceConfig
from coca.tasks import TaskConfig
from coca.workflows.evaluation.evaluate import SuiteConfig
from coca.workflows.training.finetune import FinetuneConfig
from coca.workflows.training.pretrain import PretrainConfig
from everyday_plugin import register_losses
from tiny_data import image_bytes

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(path.relative_to(RECIPES).as_posix() for path in RECIPES.rglob("*.yaml"))


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    register_losses(monkeypatch)


@cache
def tree_of(recipe: Path) -> Tree:
    """Read a recipe once: it takes longer than to build its configuration."""
    return read_recipe(recipe)


def load(name: str, *changes: str) -> Any:
    tree = tree_of(RECIPES / name)
    kind: type = PretrainConfig if name.startswith("pretrain") else FinetuneConfig
    if name.startswith("evaluate"):
        kind = SuiteConfig if "tasks" in tree else TaskConfig
    given = for_all_tasks(len(tree["tasks"]), changes) if kind is SuiteConfig else changes
    return load_config(kind, tree_of(RECIPES / name), overrides=given)


def sources_of(config: Any) -> Iterator[SourceConfig]:
    """All sources, of training and of scoring."""
    tasks: tuple[TaskConfig, ...] = getattr(config, "evaluate", ())
    match config:
        case TaskConfig():
            tasks = (config,)
        case SuiteConfig():
            tasks = config.tasks
        case _:
            yield from config.data.sources
    for task in tasks:
        yield task.data
        if task.reference is not None:
            yield task.reference


def head_of(name: str) -> str:
    """The comment on top of a recipe, as one line."""
    lines = (RECIPES / name).read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in takewhile(lambda it: it.startswith("#"), lines))


def paths_of(source: SourceConfig) -> list[str]:
    named = [getattr(source, name, "") for name in ("images", "names", "classes")]
    return [path for path in (*source.paths, *named) if path]


def test_one_variable_moves_all_data_of_training_and_scoring() -> None:
    for name in NAMES:
        sources = [*sources_of(load(name, "data_root=/elsewhere"))]
        assert sources, name
        paths = [path for source in sources for path in paths_of(source)]
        assert [path for path in paths if not f"{path}/".startswith("/elsewhere/")] == [], name


def test_recipes_point_into_the_clone_and_name_the_source_of_their_data() -> None:
    known = r"https?://|coca data |recipes/data/|pip install|extra `|in data_root=FOLDER|of stage 1"
    for name in NAMES:
        paths = [path for source in sources_of(load(name)) for path in paths_of(source)]
        assert [path for path in paths if path.startswith(("../", "/"))] == [], name
        source_notes = head_of(name).partition("Data ")[2].partition("Command ")[0]
        assert re.search(known, source_notes), name


def published_changes(name: str) -> list[str]:
    """The overrides that the head of a recipe gives for the files as they are published."""
    file_notes = head_of(name).partition("The published f")[2]
    words = re.findall(r"((?:data|evaluate)[\w.]*='[^']*')", file_notes)
    return [shlex.split(word)[0] for word in words]


def test_the_override_for_published_files_is_complete() -> None:
    changes = {name: given for name in NAMES if (given := published_changes(name))}
    assert len(changes) > 5
    for name, given in changes.items():
        sources = [*sources_of(load(name, "data_root=/mine", *given))]
        assert {it.kind for it in sources} <= {"karpathy", "folder"}, name
        assert all(path.startswith("/mine") for it in sources for path in paths_of(it)), name


def test_flickr8k_is_read_as_it_is_published(tmp_path: Path) -> None:
    (tmp_path / "Images").mkdir()
    images = []
    for row, split in enumerate(("train", "train", "val")):
        (tmp_path / "Images" / f"{row}.jpg").write_bytes(image_bytes(row))
        images.append({"filename": f"{row}.jpg", "split": split, "sentences": [{"raw": "a dog"}]})
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    names = [name for name in NAMES if "flickr8k" in name]
    assert len(names) == 6
    for name in names:
        config = load(name, f"data_root={tmp_path}", *published_changes(name))
        learned = config.data.sources if name.startswith(("pretrain", "finetune")) else ()
        assert [len(open_source(source)) for source in learned] == [2] * len(learned)
        scored = [source for source in sources_of(config) if source not in learned]
        assert [len(open_source(source)) for source in scored] == [1] * len(scored)

"""Docs against code: snippets run, named things exist, and existing things are documented."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import docs_pages
import pytest
import typer.main

import coca
from coca.cli.app import app
from coca.cli.options.recipes import Settings, for_all_tasks
from coca.core import errors
from coca.core.config.frozen_config import load_config
from coca.core.config.recipe import read_recipe
from coca.core.registry import Registry
from coca.data.sample import Sample
from coca.data.sources.source import SOURCES
from coca.data.sources.tar.shards import ShardWriter
from coca.model.coca_config import CoCaConfig
from coca.processing.tokenizer import TOKENIZERS
from coca.search.stores import open_store
from coca.tasks import TASKS, TaskConfig
from coca.train.optim.optimizer import OPTIMIZERS
from coca.train.optim.schedule import SCHEDULES
from coca.train.tracker import TRACKERS
from coca.workflows.demo.run import read_table
from coca.workflows.evaluation.evaluate import SuiteConfig
from coca.workflows.training.finetune import FinetuneConfig
from coca.workflows.training.pretrain import PretrainConfig
from documented import COMMANDS, OF_RECIPES, PAGES, RECIPES, ROOT, Block, Command, blocks, name_of
from everyday_plugin import register_losses
from tiny_data import image_bytes
from tiny_model import write_model
from tiny_video import video

REGISTRIES: dict[str, Registry[Any]] = {
    "source": SOURCES,
    "task": TASKS,
    "optimizer": OPTIMIZERS,
    "tracker": TRACKERS,
    "schedule": SCHEDULES,
    "tokenizer": TOKENIZERS,
}


BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
OURS = [command for command in (*COMMANDS, *OF_RECIPES) if "coca" in command.text.split()]


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    register_losses(monkeypatch)


@pytest.fixture(scope="session")
def demo_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages make, at the size of a test."""
    root = tmp_path_factory.mktemp("project")
    run = root / "runs" / "demo"
    write_model(root / "runs" / "from-scratch" / "model")
    photos = run / "photos"
    photos.mkdir(parents=True)
    for number, name in enumerate(("67dd47336dc89421", "4cccb215bd60b3c3", "38287d2e5a4a9a57")):
        (photos / f"{name}.webp").write_bytes(image_bytes(number, form="WEBP"))
    with ShardWriter(root / "runs" / "drawings") as writer:
        for number, label in enumerate(("car", "frog")):
            writer.write(Sample(label, image_bytes(number), captions=(label,), labels=(label,)))
    (root / "clip.mp4").write_bytes(video(frames=16))
    model = coca.load(device="cpu")
    uri = str(run / "pictures.db")
    with open_store(uri, create=True) as store:
        store.create("pictures", embed_dim=model.embed_dim, fingerprint=model.fingerprint)
    return root


@pytest.mark.parametrize("block", PYTHON, ids=name_of)
def test_a_python_snippet_runs(
    block: Block, demo_like: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo_like)
    # A plugin's lines register a name; the registries are left as they were.
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    try:
        exec(compile(block.text, name_of(block), "exec"), {})
    except (ModuleNotFoundError, errors.MissingExtraError) as error:
        if block.page.name != "plugins.md":
            raise
        pytest.skip(f"`make test-integrations` runs it: {error}")


@cache
def command_tree() -> Any:
    """Build the commands once: it takes longer than to parse one."""
    return typer.main.get_command(app)


def parsed(command: Command) -> tuple[str, Any]:
    """Return the name of a command and its parsed context; nothing is run."""
    words, name, group = command.arguments, "coca", command_tree()
    if "--plugin" in words:  # accepted at any position
        at = words.index("--plugin")
        assert Path(ROOT, words[at + 1]).is_file()
        del words[at : at + 2]
    while hasattr(group, "commands"):
        assert words, f"`{command.text}` stops before its command"
        # A plug-in may add it.
        inner = group.get_command(None, words[0])
        assert inner is not None, f"`{command.text}`: {words[0]} is not a command"
        name, group = f"{name} {words.pop(0)}", inner
    return name, group.make_context(name, words)


def test_documented_commands_are_those_that_coca_accepts() -> None:
    for command in OURS:
        name, context = parsed(command)
        assert context.command.name in name


def test_the_settings_of_documented_commands_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for command in OURS:
        if {"pretrain", "finetune", "evaluate", "show"} & {*command.arguments[:2]}:
            check_settings(command)


def check_settings(command: Command) -> None:
    """Load the configuration that a command would run with."""
    name, context = parsed(command)
    given = Settings.of(context.params["tasks" if name == "coca evaluate" else "settings"])
    trees = [read_recipe(Path(recipe)) for recipe in given.recipes if recipe.endswith(".yaml")]
    if name == "coca evaluate":
        for recipe in given.recipes:
            if recipe in TASKS.names():
                load_config(TaskConfig, {"task": recipe}, overrides=given.changes)
        for tree in trees:
            several = "tasks" in tree
            changes = for_all_tasks(len(tree["tasks"]), given.changes) if several else given.changes
            load_config(SuiteConfig if several else TaskConfig, tree, overrides=changes)
        return
    keys = {key for tree in trees for key in tree}
    kind: type = FinetuneConfig if {"head", "encoder_lr", "evaluate"} & keys else PretrainConfig
    load_config(kind, *map(Path, given.recipes), overrides=given.changes)


def test_commands_name_files_of_the_project_that_exist() -> None:
    named = [
        (name_of(command), word)
        for command in (*COMMANDS, *OF_RECIPES)
        for word in shlex.split(command.text)
        if word.startswith(("recipes/", "docs/", "src/"))
    ]
    assert len(named) > 50
    assert [(place, word) for place, word in named if not (ROOT / word).exists()] == []


def test_every_recipe_has_its_command() -> None:
    named = {word for command in OF_RECIPES for word in shlex.split(command.text)}
    paths = [path.relative_to(ROOT).as_posix() for path in RECIPES]
    assert [path for path in paths if path not in named] == []


@cache
def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_links_within_the_project_have_a_target() -> None:
    links = [
        (page, page.parent / target if target else page, anchor)
        for page in PAGES
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", prose(page))
        if "://" not in target
    ]
    assert len(links) > 50
    assert [(page, target) for page, target, _ in links if not target.exists()] == []
    named = [link for link in links if link[2] and link[1].suffix == ".md"]
    assert [link for link in named if link[2] not in anchors(link[1])] == []


def test_every_command_preset_error_and_registered_name_is_documented() -> None:
    texts = [*(page.read_text(encoding="utf-8") for page in PAGES), *docs_pages.pages().values()]
    text = "\n".join(texts)
    root: Any = typer.main.get_command(app)
    own = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.CocaError)
    ]
    registered = [name for registry in REGISTRIES.values() for name in registry.names()]
    terms = [f"`{name}`" for name in (*registered, *own, *CoCaConfig.presets())]
    terms += [f"coca {name}" for name in root.commands]
    assert [term for term in terms if term not in text] == []


def test_the_reference_names_what_exists() -> None:
    """By the files: the libraries of some modules are not installed."""
    for _, modules in docs_pages.REFERENCE.values():
        for name in modules.split():
            path = ROOT / "src" / "coca" / name.replace(".", "/")
            whole = path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
            holder = path.parent.with_suffix(".py")
            assert whole or f"def {path.name}(" in holder.read_text(encoding="utf-8"), name


def test_the_navigation_lists_every_page_once_and_no_other() -> None:
    named = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    kept = {page.name for page in PAGES if page.parent == ROOT / "docs"}
    assert sorted(named) == sorted(kept | docs_pages.pages().keys())


def test_generated_pages_have_every_command_photo_and_module(tmp_path: Path) -> None:
    docs_pages.write(tmp_path)
    options = (tmp_path / "options.md").read_text(encoding="utf-8")
    assert [name for name in command_tree().commands if f"## coca {name}" not in options] == []
    credits = (tmp_path / "photo-credits.md").read_text(encoding="utf-8")
    assert [photo.page for photo in read_table() if photo.page not in credits] == []
    assert (tmp_path / "reference" / "search.md").read_text().count("::: coca.search") > 20

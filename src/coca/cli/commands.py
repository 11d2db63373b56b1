"""The commands of `coca` by name: each is imported when it is used, and listed by its summary."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import typer
from typer.core import TyperCommand

from coca.core import plugins
from coca.core.registry import Registry

COMMANDS: Registry[Callable[..., None] | typer.Typer] = Registry("command", "commands")
"""Commands that plug-ins add."""

PLUGIN_PANEL = "Plug-ins"

PANELS: Mapping[str, Mapping[str, str]] = {
    "Training": {
        "training.train:pretrain": "Pretrain a CoCa model from a recipe; the same command resumes "
        "an interrupted run.",
        "training.train:finetune": "Fine-tune a pretrained model on a task, such as "
        "classification, and evaluate it.",
        "training.evaluate:evaluate": "Evaluate a model on tasks, compared with chance level and "
        "other models.",
        "training.demo:demo": "Index, search and caption 400 photos, and write a report.",
    },
    "Using a model": {
        "models.info:info": "Print the parameter count of each part of a model.",
        "models.embed:embed": "Embed images and videos, then texts, into unit vectors of one "
        "space.",
        "models.caption:caption": "Caption images and videos, or correct their captions.",
        "models.classify:classify": "Classify images: zero-shot among any labels, or by the head "
        "of a fine-tuned model.",
        "models.answer:answer": "Answer a question about each image, or judge a statement.",
        "models.export:export": "Export a model as a folder to share, or as ONNX for ONNX Runtime.",
    },
    "Search": {
        "collections.index:index": "Index images: embed new and changed images, and upsert them "
        "into a collection.",
        "collections.search:search": "Search images by text, by image, or by a weighted sum of "
        "both.",
        "collections.serve:serve": "Serve collections over HTTP: search, items, captions, "
        "embeddings, and a web page.",
        "collections.mining:recommend": "Recommend images from positive and negative examples, "
        "diversified by MMR.",
        "collections.mining:mine": "Select images of a collection for training, and write them as "
        "a manifest or as shards.",
        "collections.mining:duplicates": "Find near-duplicates within a collection, or between it "
        "and other images.",
        "collections.migrate:migrate": "Copy a collection between two stores, such as a SQLite "
        "file and a Milvus server.",
        "collections.reindex:reindex": "Embed a collection's images with another model, then "
        "replace the old vectors by the new ones.",
        "collections.classes:app": "Manage class embeddings in a collection, for `coca classify "
        "--classes`.",
        "collections.collection:app": "List, describe, export, index and drop collections, show "
        "hidden records.",
    },
    "Data and settings": {
        "plugins:plugins": "List the installed plug-ins: what each adds, and what is missing to "
        "use it.",
        "data:app": "Prepare data: train a tokenizer, index tars, cache features.",
        "training.config:app": "Resolve recipes, and list the available settings.",
    },
}
"""Panel of the help -> place of a command or a group -> its summary, as in its docstring.

Importing all commands takes as long as the rest of `coca --help` or a third of `coca search`.
"""


def _name(place: str) -> str:
    module, _, name = place.partition(":")
    return name if name != "app" else module.rpartition(".")[2]


_PLACES = {_name(place): (place, panel) for panel, places in PANELS.items() for place in places}


class LazyCommands(Mapping[str, Any]):
    """The commands of the parser, without those of plug-ins."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            place, panel = _PLACES[name]
            module, _, attribute = place.partition(":")
            added = getattr(importlib.import_module(f"coca.cli.{module}"), attribute)
            self._built[name] = _built(name, added, panel)
        return self._built[name]


def plugin_command(name: str) -> Any:
    """Build a command that a plug-in adds; None if no plug-in adds it."""
    return _built(name, COMMANDS.get(name), PLUGIN_PANEL) if name in COMMANDS.names() else None


def _built(name: str, added: Callable[..., None] | typer.Typer, panel: str) -> Any:
    """Build a command for the parser."""
    from coca.cli.options.option_groups import Commands

    root = Commands(rich_markup_mode="rich")
    if isinstance(added, typer.Typer):
        root.add_typer(added, name=name, rich_help_panel=panel)
    else:
        root.command(name, rich_help_panel=panel)(added)
    # With a callback, a single command does not become the root itself.
    root.callback()(lambda: None)
    return typer.main.get_command(root).commands[name]  # type: ignore[attr-defined]


def summaries() -> dict[str, TyperCommand]:
    """Return the commands without options, for the help.

    Commands of a plug-in that lacks a module are left out; others have its sentence.
    """
    found = {
        _name(place): (summary, panel)
        for panel, places in PANELS.items()
        for place, summary in places.items()
    }
    for name in COMMANDS.names():
        if name not in plugins.declared("commands"):
            found[name] = (COMMANDS.get(name).__doc__ or "", PLUGIN_PANEL)
    for plugin in plugins.installed().found.values():
        if not plugin.missing():
            found |= dict.fromkeys(plugin.commands, (plugin.adds, PLUGIN_PANEL))
    return {
        name: TyperCommand(name, help=summary, rich_help_panel=panel, callback=None)
        for name, (summary, panel) in found.items()
    }

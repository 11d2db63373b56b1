"""Commands `coca config`: resolve recipes, and list their settings."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from coca.cli.console import Console
from coca.cli.options.option_groups import Commands
from coca.cli.options.recipes import Settings, load

app = Commands(help="Resolve recipes, and list the available settings.")


class Kind(StrEnum):
    """Kind of a recipe."""

    PRETRAIN = "pretrain"
    FINETUNE = "finetune"
    TASK = "task"
    SUITE = "suite"


@app.command()
def show(
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|FIELD=VALUE",
            help="YAML files of a run or a task, and overrides such as train.steps=100.",
        ),
    ],
    console: Console,
) -> None:
    """Validate a recipe and print it with all defaults."""
    import yaml

    from coca.core.config.frozen_config import to_dict

    given = Settings.of(settings)
    tree = to_dict(load(_class_of(_kind_of(given)), given))
    console.say(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).rstrip())
    console.emit(tree)


@app.command()
def keys(
    kind: Annotated[Kind, typer.Argument(help="Kind of recipe.")] = Kind.PRETRAIN,
    *,
    console: Console,
) -> None:
    """List every setting with its type, default and description."""
    import dataclasses

    from coca.cli.training.recipe_settings import describe

    settings = list(describe(_class_of(kind)))
    console.table(
        ["key", "must be", "default", "what it does"],
        [
            [
                one.key,
                one.type,
                "(must be given)" if one.default is None else one.default,
                f"Only {', '.join(one.kinds)}: {one.text}" if one.kinds else one.text,
            ]
            for one in settings
        ],
    )
    console.emit([dataclasses.asdict(one) for one in settings])


def _kind_of(settings: Settings) -> Kind:
    """Infer the kind of a recipe from its top-level keys."""
    from coca.core.config.recipe import read_recipe

    trees = [read_recipe(Path(recipe)) for recipe in settings.recipes]
    if any("task" in tree for tree in trees):
        return Kind.TASK
    if any("tasks" in tree for tree in trees):
        return Kind.SUITE
    # Keys that only fine-tuning recipes have.
    if any({"head", "encoder_lr", "evaluate"} & tree.keys() for tree in trees):
        return Kind.FINETUNE
    return Kind.PRETRAIN


def _class_of(kind: Kind) -> type[Any]:
    if kind is Kind.TASK:
        from coca.tasks import TaskConfig

        return TaskConfig
    if kind is Kind.SUITE:
        from coca.workflows.evaluation.evaluate import SuiteConfig

        return SuiteConfig
    if kind is Kind.FINETUNE:
        from coca.workflows.training.finetune import FinetuneConfig

        return FinetuneConfig
    from coca.workflows.training.pretrain import PretrainConfig

    return PretrainConfig

"""Training from a recipe."""

from typing import Annotated

import typer

from coca.cli.console import Console, Json
from coca.cli.recipes import Settings, load

STOPPED = 130


def pretrain(
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|FIELD=VALUE",
            help="YAML files, the later over the earlier, and changes such as train.steps=100.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Train a CoCa from a recipe; a run that was stopped goes on by the same command.

    Ctrl-C saves and stops after the current step.
    """
    console = Console.current(json=as_json)
    from coca.workflows import pretrain as workflow

    config = load(workflow.PretrainConfig, Settings.of(settings))
    result = workflow.pretrain(config, progress=console.progress)
    figures = result.figures
    if result.interrupted:
        console.say(
            f"stopped after step {result.step} of {config.train.steps}, and saved in {result.run}; "
            "the same command goes on from there"
        )
    else:
        loss = f" with loss {figures['loss']:.4g}" if "loss" in figures else ""
        console.say(f"{result.step} steps are done{loss}; figures and checkpoints: {result.run}")
    console.say(f"model: {result.model}")
    console.emit(
        {
            "run": str(result.run),
            "model": str(result.model),
            "step": result.step,
            "interrupted": result.interrupted,
            "figures": figures,
        }
    )
    if result.interrupted:
        raise typer.Exit(STOPPED)

"""Commands `coca pretrain` and `coca finetune`, with one process or several."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from coca.cli.console import Console, shows_progress
from coca.cli.options.recipes import Settings, load

if TYPE_CHECKING:
    from coca.workflows.training.training_run import RunResult

STOPPED = 130

RecipeOverrides: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE|FIELD=VALUE",
        help="YAML files, or recipes of the package such as recipe:emoji; later files override "
        "earlier ones; overrides such as train.steps=100.",
    ),
]


@shows_progress
def pretrain(settings: RecipeOverrides, console: Console) -> None:
    """Pretrain a CoCa model from a recipe; the same command resumes an interrupted run.

    Ctrl-C saves a checkpoint and stops after the current step; so does SIGTERM, with exit code 0.
    Under `torchrun --nproc-per-node N -m coca pretrain ...`, N processes share each batch.
    """
    from coca.train.distributed.context import join_from_environment
    from coca.workflows.training import pretrain as workflow

    given = Settings.of(settings, folder="pretrain")
    config = load(workflow.PretrainConfig, given, find_data=True)
    world = join_from_environment(config.device)
    result = workflow.pretrain(config)
    if world.is_main:
        _report(console, config, result)
    if result.interrupted and not result.terminated:
        raise typer.Exit(STOPPED)


@shows_progress
def finetune(settings: RecipeOverrides, console: Console) -> None:
    """Fine-tune a pretrained model on a task, such as classification, and evaluate it.

    Resuming and torchrun work as with `coca pretrain`.
    """
    from coca.workflows.training import finetune as workflow

    given = Settings.of(settings, folder="finetune")
    finetune_recipe(console, given, workflow.FinetuneConfig, workflow.finetune)


def finetune_recipe(
    console: Console, settings: Settings, kind: type[Any], train: Callable[..., "RunResult"]
) -> None:
    """Train and evaluate the run of a recipe, with a config of class `kind`, and print its results.

    The config needs the fields `device`, `train` and `evaluate`.
    """
    from coca.cli.training.evaluate import print_scores
    from coca.train.distributed.context import join_from_environment

    config = load(kind, settings, find_data=True)
    world = join_from_environment(config.device)
    result = train(config)
    if world.is_main:
        scores = [{"task": one.task, "metrics": dict(one.metrics)} for one in result.scores]
        _report(console, config, result, scores=scores)
        for task, one in zip(config.evaluate, result.scores, strict=bool(result.scores)):
            print_scores(console, task, one)
    if result.interrupted and not result.terminated:
        raise typer.Exit(STOPPED)


def _report(console: Console, config: Any, result: "RunResult", **more: object) -> None:
    metrics = result.metrics
    if result.interrupted:
        console.say(
            f"stopped after step {result.step} of {config.train.steps}, and saved in {result.run}; "
            "the same command goes on from there"
        )
    else:
        loss = f" with loss {metrics['loss']:.4g}" if "loss" in metrics else ""
        console.say(f"{result.step} steps are done{loss}; metrics and checkpoints: {result.run}")
    console.say(f"model: {result.model}")
    console.emit(
        {
            "run": str(result.run),
            "model": str(result.model),
            "step": result.step,
            "interrupted": result.interrupted,
            "metrics": metrics,
            **more,
        }
    )

"""Training from a recipe, by one process or by many."""

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from coca.cli.console import Console, Json, tell_error
from coca.cli.recipes import Settings, has_section, load, require_data_root

if TYPE_CHECKING:
    from coca.workflows.training.finetune import FinetuneConfig, FinetuneResult
    from coca.workflows.training.finetune_detection import DetectionConfig
    from coca.workflows.training.pretrain import PretrainConfig, PretrainResult

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

    Ctrl-C saves and stops after the current step; so does SIGTERM, with exit code 0. Under
    `torchrun --nproc-per-node N -m coca pretrain ...`, N processes share each batch.
    """
    console = Console.current(json=as_json)
    from coca.train.distributed_init import join_from_environment
    from coca.workflows.training import pretrain as workflow

    given = Settings.of(settings)
    require_data_root(given.recipes, given.changes)
    config = load(workflow.PretrainConfig, given)
    world = join_from_environment(config.device)
    result = workflow.pretrain(config, progress=console.progress)
    if world.is_main:
        _tell(console, config, result)
    if result.interrupted and not result.terminated:
        raise typer.Exit(STOPPED)


def finetune(
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|FIELD=VALUE",
            help="YAML files, the later over the earlier, and changes such as train.steps=100.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Train a pretrained model on a problem, such as naming classes, and score it there.

    A recipe with a section `detector` trains its image encoder to find objects. A run that was
    stopped goes on by the same command, as with `coca pretrain`; so do several processes share one.
    """
    console = Console.current(json=as_json)
    from coca.cli.evaluate import score_rows
    from coca.train.distributed_init import join_from_environment
    from coca.workflows.training import finetune as workflow
    from coca.workflows.training import finetune_detection as detection

    given = Settings.of(settings)
    require_data_root(given.recipes, given.changes)
    config: workflow.FinetuneConfig | detection.DetectionConfig
    result: workflow.FinetuneResult
    if has_section(given, "detector"):
        config = load(detection.DetectionConfig, given)
        world = join_from_environment(config.device)
        result = detection.finetune_detection(config, progress=console.progress)
    else:
        config = load(workflow.FinetuneConfig, given)
        world = join_from_environment(config.device)
        result = workflow.finetune(config, progress=console.progress)
    if world.is_main:
        scores = [{"task": one.task, "metrics": dict(one.metrics)} for one in result.scores]
        _tell(console, config, result, scores=scores)
        for task, one in zip(config.evaluate, result.scores, strict=bool(result.scores)):
            for sentence in one.bad:
                console.complain(sentence)
            console.say(f"{one.task} on {one.samples} samples of {task.data.title}")
            columns = ["score", "value", "by chance"]
            console.table(columns, score_rows(one), right=columns[1:])
    if result.interrupted and not result.terminated:
        raise typer.Exit(STOPPED)


def leave(code: int | str | None) -> None:
    """End this process at once if it trains together with others; otherwise do nothing.

    Python's slow end would let the threads of the process group abort it now and then.

    Args:
        code: As `sys.exit` takes it.
    """
    if "torch" not in sys.modules:
        return
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return
    from coca.core.errors import CocaError
    from coca.train.distributed_context import DistributedContext, lost_ranks_reported

    if code in (None, 0, STOPPED):
        world = DistributedContext.current()
        try:
            # The main rank may still score the model. Then none leaves while others talk to it.
            world.broadcast_from_main(lambda: None)
        except CocaError as error:
            tell_error(str(error))
            code = 1
        else:
            # All work is done: whoever has closed the line by now has only left earlier.
            with suppress(CocaError), lost_ranks_reported(world):
                world.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _tell(
    console: Console,
    config: "PretrainConfig | FinetuneConfig | DetectionConfig",
    result: "PretrainResult | FinetuneResult",
    **more: object,
) -> None:
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
            **more,
        }
    )

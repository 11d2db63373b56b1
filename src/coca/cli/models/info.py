"""Command `coca info`: count the parameters of a model."""

from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console, Json
from coca.cli.options import defaults
from coca.core.errors import ConfigError, did_you_mean
from coca.weights import shipped


def info(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Preset such as coca_base, model folder or run; default: COCA_MODEL, else "
            "everyday.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the parameter count of each part of a model, without loading weights."""
    console = Console.current(json=as_json)
    if name is None:
        name = defaults.model_name(None)
    from coca.inference.loading import model_folder
    from coca.model.coca_config import CoCaConfig
    from coca.model.openclip.openclip_config import OpenCLIPConfig
    from coca.model.pretrained import ModelConfig, load_config_file, model_description

    config: ModelConfig
    folder = Path(name)
    presets: dict[str, ModelConfig] = {**CoCaConfig.presets(), **OpenCLIPConfig.presets()}
    if name in presets and not folder.is_dir():
        config = presets[name]
    elif folder.exists() or ":" in name or name in shipped():
        config = load_config_file(model_folder(name))
    else:
        near = did_you_mean(name, [*presets, *shipped()])
        raise ConfigError(f"{name!r} is neither a preset nor a folder; {near}")
    description = model_description(config)
    counts = description["parameters"]
    console.table(
        ["part", "parameters"],
        [[part.replace("_", " "), f"{count:,}"] for part, count in counts.items()],
        right=["parameters"],
    )
    console.say(
        f"images of {config.image.image_size} px, captions of up to "
        f"{config.text.context_length} tokens, vectors of {config.embed_dim} numbers"
    )
    console.emit(description)

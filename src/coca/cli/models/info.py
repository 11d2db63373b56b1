"""Command `coca info`: count the parameters of a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console
from coca.cli.options import defaults
from coca.core.errors import ConfigError, did_you_mean
from coca.model.shipped import shipped


def info(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Preset such as coca_base, model folder or run; default: COCA_MODEL, else "
            "everyday.",
        ),
    ] = None,
    *,
    console: Console,
) -> None:
    """Print the parameter count of each part of a model.

    The weights of a CoCa are not loaded; those of a model of another library are.
    """
    if name is None:
        name = defaults.model_name(None)
    from coca.model.coca_config import CoCaConfig
    from coca.model.openclip.openclip_config import OpenCLIPConfig
    from coca.model.pretrained import ModelConfig, load_config_file, model_description
    from coca.predict.manifest import is_exported
    from coca.predict.model_kinds import is_image_text
    from coca.predict.open_weights import model_folder
    from coca.predict.tower import TowerConfig

    config: ModelConfig
    folder = Path(name)
    presets: dict[str, ModelConfig] = {**CoCaConfig.presets(), **OpenCLIPConfig.presets()}
    if name in presets and not folder.is_dir():
        config = presets[name]
    elif folder.exists() or ":" in name or name in shipped():
        folder = folder if is_exported(folder) else model_folder(name)
        if is_exported(folder) or is_image_text(folder):
            _image_text(console, folder)
            return
        config = load_config_file(folder)
    else:
        near = did_you_mean(name, [*presets, *shipped()])
        raise ConfigError(f"{name!r} is neither a preset nor a folder; {near}")
    description = model_description(config)
    _table(console, description["parameters"])
    console.say(
        f"images of {config.image.image_size} px, captions of up to "
        f"{config.text.context_length} tokens, vectors of {config.embed_dim} numbers"
    )
    if isinstance(config.image, TowerConfig):
        tower = config.image.load()
        total = tower.parameter_counts()["total"]
        kept = "whose embeddings it keeps" if config.image.keeps_embeddings else "new embeddings"
        console.say(
            f"captioner on the frozen {config.image.name} ({total:,} parameters, fingerprint "
            f"{tower.fingerprint}), {kept}"
        )
        description["tower"] = {"parameters": total, "fingerprint": tower.fingerprint}
    console.emit(description)


def _table(console: Console, counts: Mapping[str, int]) -> None:
    console.table(
        ["part", "parameters"],
        [[part.replace("_", " "), f"{count:,}"] for part, count in counts.items()],
        right=["parameters"],
    )


def _image_text(console: Console, folder: Path) -> None:
    """Print what an exported model, or one of another library, is, and its sizes."""
    from importlib.metadata import version

    from coca.predict.embedding_predictor import EmbeddingPredictor
    from coca.predict.loading import load
    from coca.predict.model_kinds import model_files

    # The parameters that the library counts: FastViT has fewer with merged branches.
    loaded = load(folder, device="cpu", prepack=False)
    counts, runs = {}, "onnxruntime"
    if isinstance(loaded, EmbeddingPredictor):
        counts, runs = loaded.parameter_counts(), loaded.library
    size = loaded.image_settings.image_size
    total = sum(path.stat().st_size for path in model_files(folder))
    library = {"name": runs, "version": version(runs)}
    if counts:
        _table(console, counts)
    fixed = loaded.image_settings.resize != "within"
    decoder = "with a decoder" if loaded.has_decoder else "without a decoder"
    console.say(
        f"image-text model {decoder}, by {library['name']} {library['version']}: "
        f"{total / 1e6:,.1f} MB in {folder}"
    )
    read = f"images {'of' if fixed else 'of any shape up to'} {size} px"
    if not loaded.reads_pixels:
        read = "files that its library decodes"
    console.say(
        f"{read}, texts of up to {loaded.context_length} tokens, vectors of {loaded.embed_dim} "
        "numbers"
    )
    console.say(f"fingerprint {loaded.fingerprint}")
    console.emit(
        {
            "kind": "image-text",
            "has_decoder": loaded.has_decoder,
            "library": library,
            "folder": str(folder),
            "bytes": total,
            "parameters": counts,
            "fingerprint": loaded.fingerprint,
            "image_size": size if fixed else None,
            "context_length": loaded.context_length,
            "embed_dim": loaded.embed_dim,
        }
    )

"""Where a command looks when it is not told: for a model, and for a collection.

model       --model,  then COCA_MODEL,  then runs/demo/model
collection  --uri,    then COCA_URI,    then coca.db,  then runs/demo/pictures.db
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coca.core.errors import ConfigError

if TYPE_CHECKING:
    from coca.inference.predictor import Predictor

DEMO_MODEL = Path("runs/demo/model")
DEMO_PICTURES = Path("runs/demo/pictures.db")
OWN_PICTURES = Path("coca.db")

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="FOLDER",
        help="Model folder or run; default: COCA_MODEL, else runs/demo/model.",
        show_default=False,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="Such as cuda:0; default: an accelerator, else cpu.", show_default=False
    ),
]
Uri = Annotated[
    str | None,
    typer.Option(
        "--uri",
        help="Collections: a path that ends in .db, or a Milvus server; default: COCA_URI, else "
        "coca.db or, for a search, the demo's.",
        show_default=False,
    ),
]
Collection = Annotated[str, typer.Option("--collection", "-c", help="Name of the collection.")]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        envvar="COCA_TOKEN",
        help="user:password or key of a Milvus server.",
        show_default=False,
    ),
]


def model_folder(given: str | None) -> str:
    """The model to load.

    Raises:
        ConfigError: None is named, and there is none from the demo.
    """
    if named := given or os.environ.get("COCA_MODEL"):
        return named
    if DEMO_MODEL.is_dir():
        return str(DEMO_MODEL)
    raise ConfigError(
        "no model is named: pass --model FOLDER, set COCA_MODEL, or run `make demo`, which trains "
        f"one into {DEMO_MODEL}"
    )


def load_model(given: str | None, device: str | None) -> "Predictor":
    """The model to use, loaded."""
    folder = model_folder(given)
    from coca.inference.predictor import load

    return load(folder, device=device)


def search_uri(given: str | None) -> str:
    """The place of the collection to search in.

    Raises:
        ConfigError: None is named, and neither usual place is there.
    """
    if named := given or os.environ.get("COCA_URI"):
        return named
    for place in (OWN_PICTURES, DEMO_PICTURES):
        if place.exists():
            return str(place)
    raise ConfigError(
        f"there is no collection to search in: `coca index FOLDER` makes one in {OWN_PICTURES}; "
        "for another place pass --uri or set COCA_URI"
    )


def index_uri(given: str | None) -> str:
    """The place of the collection to fill."""
    return given or os.environ.get("COCA_URI") or str(OWN_PICTURES)

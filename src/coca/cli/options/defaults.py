"""Options for model and collection, and their defaults in order of precedence.

model       --model,  then the collection's model,  then COCA_MODEL,  then the shipped `everyday`
collection  --uri,    then COCA_URI,    then coca.db,  then the demo's collection
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coca.cli.console import Console
from coca.cli.options.option_groups import Group
from coca.core.config.execution import Execution
from coca.core.errors import ConfigError, ModelError
from coca.model.shipped import DEFAULT_MODEL

if TYPE_CHECKING:
    from coca.predict.predictor import Predictor
    from coca.search.records import CollectionInfo

DEMO_PICTURES = Path("runs/demo/pictures.db")
OWN_PICTURES = Path("coca.db")

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Folder, run or name of a model; default: the model of the collection, else "
        "COCA_MODEL, else the shipped everyday.",
    ),
]

Run = Annotated[
    Execution,
    Group(
        panel="Options",
        names={"precision": "model-precision"},
        only=("device", "precision"),
    ),
]
RunDevice = Annotated[Execution, Group(panel="Options", only=("device",))]
Uri = Annotated[
    str | None,
    typer.Option(
        "--uri",
        help="Path of a SQLite file, address of a Milvus server, or milvus-lite:PATH; default: "
        "COCA_URI, else coca.db, else (searches only) the collection of the demo.",
    ),
]
Collection = Annotated[
    str | None,
    typer.Option(
        "--collection",
        "-c",
        help="Name of the collection; default: the only one, else pictures.",
    ),
]
IndexParams = Annotated[
    list[str] | None,
    typer.Option(
        "--index-param",
        metavar="KEY=VALUE",
        help="Parameter of the index by its Milvus name, such as M=32; may be repeated.",
    ),
]
Dimensions = Annotated[
    int | None,
    typer.Option(
        "--dimensions",
        min=1,
        help="Keep only the first numbers of each vector of a new collection; default: all.",
    ),
]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        envvar="COCA_TOKEN",
        help="user:password or API key of a Milvus server.",
        show_default=False,
    ),
]


def model_name(given: str | None) -> str:
    """Return the name of the model to load."""
    return given or os.environ.get("COCA_MODEL") or DEFAULT_MODEL


def model_to_fill(given: str | None, there: "CollectionInfo | None") -> str:
    """Return the model to fill a collection with: by default the model of its vectors."""
    if given is None and there is not None:
        from coca.workflows.collections.collection_model import model_of

        try:
            return model_of(there)
        except ModelError:
            if not os.environ.get("COCA_MODEL"):
                raise
    return model_name(given)


def load_model(
    given: str | None,
    execution: Execution,
    *,
    info: "CollectionInfo | None" = None,
    to_index: bool = False,
) -> "Predictor":
    """Load the model that the options select, with vectors as short as those of its collection.

    `to_index` chooses the faster runtime for images without captions, see `load_to_index`.
    """
    keep_downloads_quiet(Console())
    from coca.predict.loading import load, load_to_index
    from coca.workflows.collections.collection_model import fitted

    name = model_name(given)
    model = load_to_index(name, execution) if to_index else load(name, **vars(execution))
    return fitted(model, info)


def keep_downloads_quiet(console: Console) -> None:
    """Hide the progress bars of huggingface_hub, which reads this variable at import."""
    if console.quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def search_uri(given: str | None) -> str:
    """Return the URI to search."""
    if named := given or os.environ.get("COCA_URI"):
        return named
    for path in (OWN_PICTURES, DEMO_PICTURES):
        if path.exists():
            return str(path)
    raise ConfigError(
        f"there is no collection to search in: `coca index FOLDER` makes one in {OWN_PICTURES}; "
        "for another URI pass --uri or set COCA_URI"
    )


def index_uri(given: str | None) -> str:
    """Return the URI of the collection to fill."""
    return given or os.environ.get("COCA_URI") or str(OWN_PICTURES)

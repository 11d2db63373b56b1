"""Commands `coca classes`: add, remove and list class embeddings in a collection."""

from typing import Annotated

import typer

from coca.cli.console import Console, to_try
from coca.cli.options import defaults, images
from coca.cli.options.option_groups import Commands
from coca.core.errors import ConfigError

app = Commands(help="Manage class embeddings in a collection, for `coca classify --classes`.")

Labels = Annotated[
    str,
    typer.Argument(
        metavar="LABELS|FILE",
        help="Class names: cat,dog, or a text file with one name per line.",
    ),
]

Collection = Annotated[
    str, typer.Option("--collection", "-c", help="Name of the collection of classes.")
]


@app.command()
def add(
    labels: Labels,
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts",
            help="Prompt set (photo, drawing, clip, plain), or a template such as 'a photo of {}'.",
        ),
    ] = "plain",
    uri: defaults.Uri = None,
    collection: Collection = "classes",
    model: defaults.Model = None,
    *,
    execution: defaults.Run,
    token: defaults.Token = "",
    console: Console,
) -> None:
    """Add classes; existing classes are embedded again.

    Without --model, the model of these classes is used, else the model of the images at this URI.
    """
    names = _names(labels)
    uri = defaults.index_uri(uri)
    from coca.predict.prompts import prompts_named
    from coca.search.mining.zero_shot import add_classes, class_names
    from coca.search.stores import check_name
    from coca.workflows.collections.class_prompts import info_at, open_classes
    from coca.workflows.collections.collection_model import infos_at

    templates = prompts_named(prompts)
    check_name(uri, collection)
    info = (
        infos_at(uri, token=token).get(collection)
        if model
        else info_at(uri, collection, token=token)
    )
    predictor = defaults.load_model(defaults.model_to_fill(model, info), execution, info=info)
    with open_classes(predictor, uri, collection, token=token, create=True) as opened:
        add_classes(opened, predictor, names, templates=templates)
        there = class_names(opened)
    console.say(f"{len(there)} classes are in collection {collection!r} of {uri}")
    console.say(f"use them: {to_try('classify', 'FILE', '--classes', collection)}")
    console.emit({"uri": uri, "collection": collection, "classes": there})


@app.command()
def remove(
    labels: Labels,
    uri: defaults.Uri = None,
    collection: Collection = "classes",
    token: defaults.Token = "",
    *,
    console: Console,
) -> None:
    """Remove classes."""
    names = _names(labels)
    uri = defaults.index_uri(uri)
    from coca.search.mining.zero_shot import class_names, remove_classes
    from coca.search.stores import open_collection
    from coca.workflows.collections.class_prompts import find_classes

    find_classes(uri, collection, token=token)
    with open_collection(uri, collection, token=token) as opened:
        remove_classes(opened, names)
        there = class_names(opened)
    console.say(f"{len(there)} classes are left in collection {collection!r} of {uri}")
    console.emit({"uri": uri, "collection": collection, "classes": there})


@app.command("list")
def list_(
    uri: defaults.Uri = None,
    collection: Collection = "classes",
    token: defaults.Token = "",
    *,
    console: Console,
) -> None:
    """List the classes."""
    from coca.search.mining.zero_shot import class_names
    from coca.search.stores import open_collection
    from coca.workflows.collections.class_prompts import find_classes

    uri = defaults.index_uri(uri)
    find_classes(uri, collection, token=token)
    with open_collection(uri, collection, token=token) as opened:
        there = class_names(opened)
    for name in there:
        console.say(name)
    console.emit(there)


def _names(labels: str) -> list[str]:
    names = list(dict.fromkeys(images.read_names(labels)))
    if not names:
        raise ConfigError(f"there is no class in {labels!r}: name some, such as cat,dog")
    return names

"""Command `coca serve`: a REST service over collections, and its web page."""

import os
from typing import Annotated

import typer

from coca.cli import defaults
from coca.cli.console import Console
from coca.cli.option_groups import Group, grouped
from coca.server.settings import ServerSettings


@grouped
def serve(
    *,
    uri: defaults.Uri = None,
    collection: Annotated[
        list[str] | None,
        typer.Option(
            "--collection",
            "-c",
            help="Collection to serve; may be repeated. Default: 'pictures'.",
            show_default=False,
        ),
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Create missing collections, for uploads.")
    ] = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the web page in a browser.")
    ] = False,
    model: defaults.Model = None,
    device: defaults.Device = None,
    token: defaults.Token = "",
    settings: Annotated[ServerSettings, Group(panel="Service")],
) -> None:
    """Serve collections over HTTP: search, items, captions, embeddings, and a web page.

    One process holds a collection of Milvus Lite, so `coca index` must end before. Stop the service
    by Ctrl-C.
    """
    console = Console.current(json=False)
    from coca.core.extras import require

    require("fastapi", extra="serve")
    from coca.server.run import run
    from coca.server.service import open_service

    place = defaults.index_uri(uri) if create else defaults.search_uri(uri)
    with open_service(
        place,
        collection or ["pictures"],
        settings,
        token=token,
        model=model or (defaults.model_name(None) if create else os.environ.get("COCA_MODEL")),
        device=device,
        create=create,
    ) as service:
        run(service, settings, log=console.note, open_page=open_page)

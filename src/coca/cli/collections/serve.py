"""Command `coca serve`: a REST service over collections, and its web page."""

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console
from coca.cli.options import defaults
from coca.cli.options.option_groups import Group
from coca.core.errors import ConfigError
from coca.core.malloc import share_arenas
from coca.server.settings import ServerSettings


def serve(
    *,
    uri: defaults.Uri = None,
    collection: Annotated[
        list[str] | None,
        typer.Option(
            "--collection",
            "-c",
            help="Collection to serve; may be repeated. Default: the only one, else pictures.",
        ),
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Create missing collections, for uploads.")
    ] = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the web page in a browser.")
    ] = False,
    model: defaults.Model = None,
    execution: defaults.Run,
    token: defaults.Token = "",
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            metavar="FILE",
            help="JSON file of bearer keys: key -> name, collections, rate (requests per second), "
            "quota (requests per day), write_quota (bytes per day), writable, admin (metrics of "
            "all keys), expires. It is read again when it changes. Keys for all collections may "
            "also be in COCA_API_KEYS, comma-separated.",
        ),
    ] = None,
    settings: Annotated[
        ServerSettings,
        Group(
            panel="Service",
            only=(
                *("host", "port", "max_batch", "max_body_mb", "max_pixels", "show_paths", "ocr"),
                *("audit_log", "thumbnails", "uploads"),
            ),
        ),
    ],
) -> None:
    """Serve collections over HTTP: search, items, captions, embeddings, and a web page.

    `coca index` can write to the collections at the same time. Stop the service by Ctrl-C. Without
    keys, only requests from this machine are answered.
    """
    share_arenas()
    console = Console()
    from coca.core.extras import require
    from coca.search.milvus.connection import LITE
    from coca.search.stores import is_file

    require("fastapi", extra="serve")
    from coca.server.app import run
    from coca.server.keys import KeyFile
    from coca.server.middleware import is_loopback
    from coca.server.service import open_service

    key_file = KeyFile(os.environ.get("COCA_API_KEYS", ""), keys)
    ring = key_file.keys
    if not ring and not is_loopback(settings.host):
        raise ConfigError(
            f"without keys the host must be loopback, such as 127.0.0.1, got {settings.host!r}; "
            "set COCA_API_KEYS or pass --keys"
        )
    uri = defaults.index_uri(uri) if create else defaults.search_uri(uri)
    if token and not ring and is_file(uri):
        raise ConfigError(
            f"--token is of a Milvus server, and {uri} is a file, so the service would be open: "
            "set COCA_API_KEYS or pass --keys, or leave --token and COCA_TOKEN out"
        )
    if not ring:
        console.note("no keys are set: everyone on this machine may read and write")
    elif settings.audit_log is None:
        logging.getLogger("coca.server.audit").setLevel(logging.INFO)

    if ring and uri.startswith(LITE):
        raise ConfigError(
            f"keys do not protect {uri}: Milvus Lite opens a port of its own, through which every "
            "program of this machine reads and writes; use a SQLite file or a Milvus server"
        )
    with open_service(
        uri,
        collection or None,
        settings,
        token=token,
        model=model or (defaults.model_name(None) if create else os.environ.get("COCA_MODEL")),
        execution=execution,
        create=create,
        key_file=key_file,
    ) as service:
        run(service, settings, log=console.note, open_page=open_page)

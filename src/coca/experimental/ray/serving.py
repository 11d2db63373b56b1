"""The application of `coca serve` in replicas of Ray Serve, on one machine or a cluster.

    pip install 'coca-captioners[serve]' 'ray[serve]'
    serve run coca.experimental.ray.serving:application uri=http://localhost:19530 replicas=2

Each replica loads the model and opens the collections. Several replicas need a Milvus server, since
Milvus Lite allows one process. Rates and quotas of keys, and the queue are those of a
replica. `uploads` must be a folder that all replicas share.
"""

import atexit
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from fastapi import FastAPI
from ray import serve

from coca.core.errors import ConfigError
from coca.search.milvus.lite import address_of, is_lite
from coca.server.app import create_app
from coca.server.keys import read_keys
from coca.server.service import open_service
from coca.server.settings import ServerSettings

DEFAULTS = {
    "uri": "coca.db",
    "collection": "pictures",
    "model": "",
    "token": "",
    "uploads": "",
    "replicas": "1",
}


def application(arguments: Mapping[str, str]) -> serve.Application:
    """Build the application of Ray Serve.

    Args:
        arguments: `uri`, `collection` (comma-separated), `model`, `token`, `uploads`, `replicas`.

    Raises:
        ConfigError: An argument is unknown, `replicas` is below 1, or several replicas
            are asked for on Milvus Lite.
    """
    if unknown := sorted(arguments.keys() - DEFAULTS.keys()):
        raise ConfigError(f"arguments are {', '.join(DEFAULTS)}; got {', '.join(unknown)}")
    given = {**DEFAULTS, **arguments}
    if not given["replicas"].isdecimal() or given["replicas"] == "0":
        raise ConfigError(f"replicas must be a number from 1 on, got {given['replicas']!r}")
    replicas, uri = int(given["replicas"]), given["uri"]
    if replicas > 1 and is_lite(address_of(uri)):
        raise ConfigError(f"{uri} is Milvus Lite, which allows 1 replica; got {replicas}")
    keys = read_keys(os.environ.get("COCA_API_KEYS", ""), None)
    settings = ServerSettings(uploads=Path(given["uploads"]) if given["uploads"] else None)

    def build() -> FastAPI:
        """Open the service in the process of a replica."""
        opened = ExitStack()
        service = opened.enter_context(
            open_service(
                uri,
                given["collection"].split(","),
                settings,
                token=given["token"],
                model=given["model"] or None,
                keys=keys,
            )
        )
        atexit.register(opened.close)
        return create_app(service, settings)

    class Replica:
        """A process with the model and the open collections."""

    deployment = serve.deployment(num_replicas=replicas)(serve.ingress(build)(Replica))
    return deployment.bind()

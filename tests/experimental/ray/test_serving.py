"""Ray Serve on a local Ray: the same application as `coca serve`."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: ray[serve]")

from coca.core.errors import ConfigError
from coca.inference.predictor import Predictor
from milvus_server import free_port
from server_process import ServerProcess
from tiny_collection import write_collections

PATIENCE_S = 600.0

CLUSTER = """
import sys
import ray
from ray import serve
ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"port": int(sys.argv[1])})
from coca.experimental.ray.serving import application
serve.run(application(dict(one.split("=", 1) for one in sys.argv[2:])))
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def cluster(*arguments: str, folder: Path) -> Iterator[ServerProcess]:
    """A local Ray that serves a collection; it ends with its input."""
    port = free_port()
    environment = os.environ | {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray gives up early where the machine is busy.
        "RAY_raylet_start_wait_time_s": "600",
        "RAY_worker_register_timeout_seconds": "600",
        "RAY_agent_register_timeout_ms": "600000",
    }
    with (
        (folder / "ray.log").open("w+") as log,
        subprocess.Popen(
            [sys.executable, "-c", CLUSTER, str(port), *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            env=environment,
        ) as process,
    ):
        try:
            url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
            while not _is_ready(url):
                alive = process.poll() is None and time.monotonic() < deadline
                assert alive, (folder / "ray.log").read_text()[-4_000:]
                time.sleep(0.5)
            yield ServerProcess(url, process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=PATIENCE_S)


def _is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/readyz", timeout=60) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


@pytest.mark.timeout(1_800)
def test_ray_serves_one_replica_on_lite(
    tmp_path: Path, predictor: Predictor, images: list[bytes]
) -> None:
    uri = write_collections(tmp_path, predictor, {"pictures": images})
    with cluster(f"uri={uri}", f"model={predictor.source}", folder=tmp_path) as process:
        answer = process.post("/v1/search", {"text": "a red car", "limit": 3})
        assert answer.status == 200, answer.body
        assert len(answer.json()["hits"]) == 3
        assert b"<!doctype html>" in process.get("/").body
        assert b"coca_requests_total" in process.get("/metrics").body


def test_ray_replicas_need_a_server() -> None:
    from coca.experimental.ray.serving import application

    with pytest.raises(ConfigError, match="Milvus Lite, which allows 1 replica; got 2"):
        application({"uri": "a.db", "replicas": "2"})
    with pytest.raises(ConfigError, match="replicas must be a number from 1 on, got 'two'"):
        application({"replicas": "two"})
    with pytest.raises(ConfigError, match="got port"):
        application({"port": "1"})

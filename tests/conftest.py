"""What every test may rely on: bounded, repeatable properties, one thread, the shared images."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import milvus_server as server

# Several test processes share the machine; set before torch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The speed of a shared machine says nothing about the code, hence no deadline.
settings.register_profile(
    "ci",
    derandomize=True,
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough", settings.get_profile("ci"), derandomize=False, max_examples=1000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Tests run commands in this process; their `--quiet` would silence the tests that follow."""
    logger = logging.getLogger("coca")
    level, handlers = logger.level, logger.handlers
    yield
    logger.setLevel(level)
    logger.handlers = handlers


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of sample images and captions that lies beside the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the sample data is not here: no folder ../shared/data beside the repository")
    return folder


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Milvus server: the one of MILVUS_URI, or one started for this session.

    A test that asks for it carries `SERVER`, so that it runs in the one worker that has it.
    """
    if named := os.environ.get("MILVUS_URI"):
        yield named
        return
    if reason := server.why_not():
        pytest.skip(reason)
    with server.MilvusServer(tmp_path_factory.mktemp("milvus")) as started:
        yield started.uri

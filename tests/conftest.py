"""What every test may rely on: bounded, repeatable properties, one thread, the shared images."""

import logging
import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import milvus_server as server
from end_with_session import watch_this_process
from processor_time import ProcessorTime, mark_heavy

# Several test processes share the machine; set before torch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The speed of a shared machine does not depend on the code, hence no deadline.
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
_WATCHER = pytest.StashKey[subprocess.Popen[bytes] | None]()

SLOW_MARKS = ("slow", "service", "milvus", "distributed")
"""Marks of slow files; files of the last mark come first."""
SHARED_MARKS = ("distributed", "contract")
"""Marks of files that one worker of xdist runs: two that start several processes would compete for
the processor, and each worker starts a Milvus server of its own."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("processor time")
    group.addoption("--processor-limit", type=float, metavar="S", help="list slower light tests")
    group.addoption("--processor-report", type=Path, metavar="FILE", help="JSON of all tests")


def pytest_configure(config: pytest.Config) -> None:
    """Let no process outlive the session; workers of xdist are processes of their session."""
    if not hasattr(config, "workerinput"):
        config.stash[_WATCHER] = watch_this_process()
    limit, report = config.getoption("processor_limit"), config.getoption("processor_report")
    config.pluginmanager.register(ProcessorTime(limit, report))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all tests of a file or of a shared mark to one worker, which makes fixtures once."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    # By default the files of most tests come first, and the slowest files have few.
    config.option.loadscopereorder = False
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = lambda nodeid: _mark_or_file(nodeid.partition("::")[0])
    return scheduler


@cache
def _mark_or_file(path: str) -> str:
    """Return the shared mark of a file, else its path; xdist 3.8 has no groups with pytest 9.2."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return next((mark for mark in SHARED_MARKS if f"pytest.mark.{mark}" in text), path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark heavy tests, and let workers of xdist begin with slow files to end at about one time."""
    mark_heavy(items)
    for item in items:
        if item.get_closest_marker("milvus") and not item.get_closest_marker("timeout"):
            # The first one waits for two starts of the server at most.
            item.add_marker(pytest.mark.timeout(3 * server.START_S))
    if hasattr(config, "workerinput"):
        rank: dict[Path, int] = {}
        for number, mark in enumerate(SLOW_MARKS):
            rank |= {item.path: number for item in items if item.get_closest_marker(mark)}
        items.sort(key=lambda item: -rank.get(item.path, -1))


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Write indexes of tars and other caches to a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _fork_server(request: pytest.FixtureRequest, _cache_of_the_session: None) -> None:
    """In a worker of xdist, start the server of ranks before a loader starts one without torch."""
    if hasattr(request.config, "workerinput"):
        from tiny_ranks import start_fork_server

        start_fork_server()


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Tests run commands in this process; their `--quiet` would silence the tests that follow."""
    logger = logging.getLogger("coca")
    level, handlers = logger.level, logger.handlers
    yield
    logger.setLevel(level)
    logger.handlers = handlers


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Milvus server: the one of MILVUS_URI, or one started for this session.

    A test that asks for it has the mark `milvus`.
    """
    if named := os.environ.get("MILVUS_URI"):
        yield named
        return
    if reason := server.why_not():
        pytest.skip(reason)
    with server.running_server(lambda: tmp_path_factory.mktemp("milvus")) as started:
        yield started.uri

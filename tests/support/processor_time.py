"""Processor time of each test: a report of all of them, and a limit for the light ones."""

import json
import os
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

HEAVY_MARKS = ("distributed", "experimental", "export", "service", "slow")
"""Marks of the tests that `make test` leaves out."""
HEAVY_FOLDERS = {
    "clients": "service",
    "experimental": "experimental",
    "page": "service",
    "release/onnx": "export",
}
TESTS = Path(__file__).parents[1]


def mark_heavy(items: Iterable[pytest.Item]) -> None:
    """Mark the tests of heavy folders, and those of a real `coca serve`, the fixture `process`."""
    for item in items:
        if "process" in getattr(item, "fixturenames", ()):
            item.add_marker("service")
        for folder, mark in HEAVY_FOLDERS.items():
            if TESTS / folder in item.path.parents:
                item.add_marker(mark)


class ProcessorTime:
    """Measure processor seconds, of this process and of the children that it has waited for.

    They depend little on the load of the machine, unlike the time that passes.

    Args:
        limit_s: Limit for the call of a test without a heavy mark; None: no limit.
        report: JSON file to write: the seconds of setup and call of each test.
    """

    def __init__(self, limit_s: float | None, report: Path | None) -> None:
        self._limit_s = limit_s
        self._report = report
        self._taken: dict[str, dict[str, object]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Measure the fixtures of a test."""
        start_s = _processor_s()
        yield
        item.user_properties.append(("setup", _processor_s() - start_s))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Measure a test, and fail one that is too heavy for `make test`."""
        start_s = _processor_s()
        yield
        taken_s = _processor_s() - start_s
        item.user_properties.append(("call", taken_s))
        is_light = not any(map(item.get_closest_marker, HEAVY_MARKS))
        if self._limit_s is not None and is_light and taken_s > self._limit_s:
            pytest.fail(
                f"the test takes {taken_s:.1f} s of processor time, more than the "
                f"{self._limit_s:g} s of --processor-limit: make it cheaper, or mark it as one of "
                f"{', '.join(HEAVY_MARKS)}",
                pytrace=False,
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the seconds of a test, also from workers of xdist."""
        if report.when == "teardown":
            self._taken[report.nodeid] = dict(report.user_properties)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the report once, not in each worker."""
        if self._report is not None and not hasattr(session.config, "workerinput"):
            self._report.write_text(json.dumps(self._taken, indent=1), encoding="utf-8")


def _processor_s() -> float:
    return sum(os.times()[:4])

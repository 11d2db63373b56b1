"""Processor time of each test: a report of all of them, and a list of light ones that take long."""

import json
import os
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

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

    They depend little on the load of the machine, unlike the time that passes. They do depend on
    its processor, so a test that takes long is listed at the end and does not fail.

    Args:
        limit_s: Seconds of a call above which a test without a heavy mark is listed; None: no list.
        report: JSON file to write: the seconds of setup and call of each test.
    """

    def __init__(self, limit_s: float | None, report: Path | None) -> None:
        self._limit_s = limit_s
        self._report = report
        self._taken: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Measure the fixtures of a test."""
        start_s = _processor_s()
        yield
        item.user_properties.append(("setup", _processor_s() - start_s))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Measure a test."""
        start_s = _processor_s()
        yield
        item.user_properties.append(("call", _processor_s() - start_s))
        item.user_properties.append(("light", not any(map(item.get_closest_marker, HEAVY_MARKS))))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the seconds of a test, also from workers of xdist."""
        if report.when == "teardown":
            self._taken[report.nodeid] = dict(report.user_properties)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the report once, not in each worker of xdist."""
        if self._report is not None and not hasattr(session.config, "workerinput"):
            self._report.write_text(json.dumps(self._taken, indent=1), encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List light tests above the limit."""
        if self._limit_s is None:
            return
        seconds = {name: float(it["call"]) for name, it in self._taken.items() if it.get("light")}
        if slow := {name: taken_s for name, taken_s in seconds.items() if taken_s > self._limit_s}:
            terminalreporter.section(
                f"light tests above {self._limit_s:g} s of processor time: "
                f"make them cheaper, or mark them as one of {', '.join(HEAVY_MARKS)}"
            )
            for name in sorted(slow, key=slow.__getitem__, reverse=True):
                terminalreporter.line(f"{slow[name]:.1f} s {name}")


def _processor_s() -> float:
    return sum(os.times()[:4])

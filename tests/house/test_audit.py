"""The summary of pip-audit: vulnerabilities fail, an unreachable service is reported."""

import importlib.util
import json
from pathlib import Path
from typing import Any

SPEC = importlib.util.spec_from_file_location(
    "audit", Path(__file__).parents[2] / "scripts" / "audit.py"
)
assert SPEC
assert SPEC.loader
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)

FINE = {"name": "numpy", "version": "2.5.0", "vulns": []}
VULNERABLE = {
    "name": "pillow",
    "version": "9.0.0",
    "vulns": [{"id": "PYSEC-2022-1", "fix_versions": ["9.0.1"], "aliases": []}],
}
UNKNOWN = {"name": "coca-captioners", "skip_reason": "Dependency not found on PyPI"}


def report(*packages: dict[str, Any]) -> tuple[str, bool]:
    text, fine = audit.report(json.dumps({"dependencies": packages, "fixes": []}))
    return text, fine


def test_a_vulnerability_fails_with_the_version_that_fixes_it() -> None:
    text, fine = report(FINE, VULNERABLE)
    assert not fine
    assert "pillow 9.0.0: PYSEC-2022-1, fixed in 9.0.1" in text


def test_an_unreachable_service_or_one_without_advisories_fails_nothing() -> None:
    unreachable = audit.report("", "ConnectionError: no route to host\n")
    for text, fine in (unreachable, report(UNKNOWN)):
        assert fine
        assert text.startswith("not audited")

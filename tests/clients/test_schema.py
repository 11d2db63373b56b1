"""The service keeps what its OpenAPI document promises, by requests that schemathesis draws."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("schemathesis", reason="`make test-clients` installs schemathesis")

from server_process import ServerProcess

EXAMPLES = int(os.environ.get("EXAMPLES", "10"))
"""Number of drawn requests of each route, besides those of its limits."""
SEED = os.environ.get("SEED", "1")

# A body with more values than the limit of the service is refused with 413 before it is parsed, so
# also where the schema's own limit is lower; the defaults of schemathesis lack that status.
CONFIG = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429]

# An item that has changed since its ETag is refused with 412, which the defaults lack as well.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 412, 429, "5xx"]

# Options of a search exclude each other, as beams and captions do, which JSON Schema does not
# express in a readable form.
[[operations]]
include-path-regex = "^/v1/(search|caption)$"
checks.positive_data_acceptance.enabled = false
"""


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_schemathesis_finds_nothing(process: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
        *(
            "run",
            f"{process.url}/openapi.json",
            "--header",
            "Authorization: Bearer key-of-the-tests-of-all-clients-1",
        ),
        *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(EXAMPLES)),
        *("--seed", SEED, "--no-shrink", "--continue-on-failure", "--request-timeout", "240"),
        *("--suppress-health-check", "all", "--generation-database", "none"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ
        | {"SCHEMATHESIS_HOOKS": "schema_formats", "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]

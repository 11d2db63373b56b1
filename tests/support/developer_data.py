"""The developers' sample data: real photos, captions and official scores, which no user needs.

The environment variable COCA_TEST_DATA names their folder. Where it is absent, the tests that need
it are skipped, each with what it would have checked.
"""

import os
from pathlib import Path

import pytest

FOLDER = Path(
    os.environ.get("COCA_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data"
).resolve()


def sample_file(name: str, purpose: str) -> Path:
    """Return a file or folder of the data; without it, skip the test that needs it."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(
            f"not tested: {purpose}, which needs {name or 'real photos'} of the developers' data "
            f"(COCA_TEST_DATA, now {FOLDER})"
        )
    return path

"""Report known vulnerabilities of the installed packages, by pip-audit.

    python scripts/audit.py .venv

Exit status 1: a package has a known vulnerability. Where the advisory service cannot be reached,
nothing was checked: the output states this, and the exit status is 0, so that CI without a network
passes. `tests/house/test_audit.py` describes the answers of pip-audit.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def report(answer: str, errors: str = "") -> tuple[str, bool]:
    """Summarize the JSON of pip-audit; True if no package is known to be vulnerable.

    Args:
        answer: Standard output of `pip-audit --format json`.
        errors: Its standard error, of which the last line is the reason of a failure.
    """
    try:
        packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError):
        reason = (errors.strip().splitlines() or ["no answer"])[-1]
        return f"not audited: the advisory service cannot be reached ({reason:.300})", True
    checked = [package for package in packages if "skip_reason" not in package]
    if packages and not checked:
        reason = packages[0]["skip_reason"]
        return f"not audited: the advisory service knows none of the packages ({reason})", True
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, "
        f"fixed in {', '.join(found['fix_versions']) or 'no version'}"
        for package in checked
        for found in package["vulns"]
    ]
    left_out = [package["name"] for package in packages if "skip_reason" in package]
    lead = f"{len(checked)} packages audited, {len(lines)} known vulnerabilities"
    if left_out:
        lead += f"; {len(left_out)} unknown to the advisory service: {', '.join(left_out)}"
    return "\n".join([lead, *lines]), not lines


def main() -> None:
    """Audit the environment that the first argument names."""
    (folder,) = Path(sys.argv[1]).glob("lib/python*/site-packages")
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--path", str(folder)]
    command += ["--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text, fine = report(done.stdout, done.stderr)
    print(text)  # noqa: T201 - its purpose
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()

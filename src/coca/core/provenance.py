"""Provenance record of a run: code, versions, settings, data and machine."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from coca.core.config.frozen_config import digest
from coca.core.registry import PLUGIN_FILES

# Packages that can change the numbers of a result.
_PACKAGES = (
    "coca-captioners",
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "tokenizers",
    "safetensors",
    "timm",
)


def record(
    *, config: Any, seed: int, data_fingerprint: str, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Collect the information needed to reproduce a result; stored next to it as `record.json`.

    Unavailable information is None; no error here stops a run.
    """
    return {
        "code": _code(Path(__file__)),
        "versions": {"python": platform.python_version()}
        | {package: _version(package) for package in _PACKAGES},
        "plugins": {str(path): sha256 for path, sha256 in PLUGIN_FILES.items()},
        "config": digest(config),
        "seed": seed,
        "data": data_fingerprint,
        "machine": _machine(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": list(sys.argv),
        **json.loads(json.dumps(dict(extra), default=str)),
    }


def _code(module: Path) -> dict[str, Any] | None:
    """Return the commit of the package and a digest of uncommitted changes."""
    folder = module.resolve().parent
    # An installed copy may be inside an unrelated checkout.
    if _git(folder, "ls-files", "--error-unmatch", module.name) is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain")
    if commit is None or changes is None:
        return None
    diff = (_git(folder, "diff", "HEAD", "--binary") or b"") + changes
    return {
        "commit": commit.decode().strip(),
        "dirty": bool(changes),
        "diff": hashlib.sha256(diff).hexdigest()[:16] if changes else None,
    }


def commit_shown(code: Mapping[str, Any]) -> str:
    """Format `code` of a record for a model card: the commit, and whether files differed."""
    return f"commit {code['commit'][:12]}{' with changes' if code['dirty'] else ''}"


def _git(folder: Path, *arguments: str) -> bytes | None:
    # Inside a hook, git's environment variables point to the repository of the hook.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            check=True,
            env=environment,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
    }


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None

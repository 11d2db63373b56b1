"""The pip command that installs an extra from where the package came: clone, wheel or index."""

import json
import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

NAME = "coca-captioners"


def pip_install(extras: str, *, path: Sequence[str] | None = None) -> str:
    """Format the command that installs extras, such as `"openclip"` or `"hub,torch"`.

    pip notes in `direct_url.json` (PEP 610) the folder or file that it installed. Folders are not
    named, since the service sends these messages to its clients.

    Args:
        extras: One or several extras, separated by commas.
        path: Folders in which the package is looked for; default: those of `sys.path`.
    """
    found = next(iter(distributions(name=NAME, path=list(path or sys.path))), None)
    origin = json.loads((found and found.read_text("direct_url.json")) or "{}")
    if (found is None and _is_clone()) or "dir_info" in origin:
        editable = found is None or origin["dir_info"].get("editable", False)
        return f"pip install {'-e ' * editable}'.[{extras}]' in the clone of {NAME}"
    wheel = unquote(PurePosixPath(urlsplit(origin.get("url", "")).path).name)
    if wheel.endswith(".whl"):
        return f"pip install './{wheel}[{extras}]' in the folder of the wheel"
    return f"pip install '{NAME}[{extras}]'"


def _is_clone() -> bool:
    return (Path(__file__).parents[3] / "pyproject.toml").is_file()

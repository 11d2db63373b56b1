"""The pip command that installs an extra from where the package came: clone, wheel or index."""

import json
import sys
from collections.abc import Sequence
from functools import cache
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
    source, place = _source(tuple(path or sys.path))
    return f"pip install {source.format(extras=extras)}{place}"


@cache
def _source(path: tuple[str, ...]) -> tuple[str, str]:
    """Return what pip installs, with a field for extras, and where to run it.

    It is read once: the decoder processes of the service can open no files after they started.
    """
    found = next(iter(distributions(name=NAME, path=list(path))), None)
    origin = json.loads((found and found.read_text("direct_url.json")) or "{}")
    is_clone = (Path(__file__).parents[3] / "pyproject.toml").is_file()
    if (found is None and is_clone) or "dir_info" in origin:
        editable = found is None or origin["dir_info"].get("editable", False)
        return f"{'-e ' * editable}'.[{{extras}}]'", f" in the clone of {NAME}"
    wheel = unquote(PurePosixPath(urlsplit(origin.get("url", "")).path).name)
    if wheel.endswith(".whl"):
        return f"'./{wheel}[{{extras}}]'", " in the folder of the wheel"
    return f"'{NAME}[{{extras}}]'", ""

"""The pip command of an extra names what the package was installed from."""

import json
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import MissingExtraError
from coca.core.installation import pip_install
from coca.core.plugins import Plugin

WHEEL = "coca_captioners-0.5.0-py3-none-any.whl"


def installed(folder: Path, origin: dict[str, Any] | None) -> list[str]:
    """Write the metadata of an installation, as pip does (PEP 610)."""
    metadata = folder / "coca_captioners-0.5.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.4\nName: coca-captioners\n")
    if origin is not None:
        (metadata / "direct_url.json").write_text(json.dumps(origin))
    return [str(folder)]


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (
            {"url": "file:///home/anna/clone", "dir_info": {"editable": True}},
            "pip install -e '.[hub,torch]' in the clone of coca-captioners",
        ),
        (
            {"url": "file:///home/anna/clone", "dir_info": {}},
            "pip install '.[hub,torch]' in the clone of coca-captioners",
        ),
        (
            {"url": f"file:///home/anna/My%20files/{WHEEL}", "archive_info": {}},
            f"pip install './{WHEEL}[hub,torch]' in the folder of the wheel",
        ),
        (None, "pip install 'coca-captioners[hub,torch]'"),
    ],
)
def test_an_extra_is_installed_from_where_the_package_came(
    tmp_path: Path, origin: dict[str, Any] | None, command: str
) -> None:
    assert pip_install("hub,torch", path=installed(tmp_path, origin)) == command


def test_a_source_tree_without_an_installation_is_a_clone(tmp_path: Path) -> None:
    assert pip_install("hub", path=[str(tmp_path)]).startswith("pip install -e '.[hub]'")


def test_errors_and_plugins_have_the_command_of_this_installation() -> None:
    command = pip_install("torch")
    assert str(MissingExtraError("torch", "torch")) == f"torch is not installed: {command}"
    ours = Plugin(adds="Text.", needs=("no_such",), install="coca-captioners[torch]")
    assert ours.remedy() == command
    theirs = Plugin(adds="Text.", needs=("no_such",), install="theirs[torch]")
    assert theirs.remedy() == "pip install 'theirs[torch]'"
    assert Plugin(adds="Text.", needs=("no_such",)).remedy() == "pip install 'no_such'"

import os
from pathlib import Path
from typing import Any

import options_page
import pytest
import typer.main

from coca.cli.app import app
from coca.cli.console import Console
from coca.cli.options import defaults
from coca.core.errors import ConfigError

pytestmark = pytest.mark.usefixtures("cwd")


def test_a_named_model_goes_first_then_the_environment_then_the_shipped_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert defaults.model_name(None) == "everyday"
    monkeypatch.setenv("COCA_MODEL", "")
    assert defaults.model_name(None) == "everyday"
    monkeypatch.setenv("COCA_MODEL", "mine")
    assert defaults.model_name(None) == "mine"
    assert defaults.model_name("this") == "this"


def test_a_search_uses_the_named_uri_then_the_environment_then_here_then_the_demo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"coca index.*--uri.*COCA_URI"):
        defaults.search_uri(None)
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/pictures.db").touch()
    assert Path(defaults.search_uri(None)) == Path("runs/demo/pictures.db")
    Path("coca.db").touch()
    assert defaults.search_uri(None) == "coca.db"
    monkeypatch.setenv("COCA_URI", "http://milvus:19530")
    assert defaults.search_uri(None) == "http://milvus:19530"
    assert defaults.search_uri("this.db") == "this.db"


def test_images_are_indexed_into_the_working_folder_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/pictures.db").touch()
    assert defaults.index_uri(None) == "coca.db"
    monkeypatch.setenv("COCA_URI", "http://milvus:19530")
    assert defaults.index_uri(None) == "http://milvus:19530"
    assert defaults.index_uri("this.db") == "this.db"


def test_quiet_hides_the_bars_of_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    defaults.keep_downloads_quiet(Console())
    assert "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ
    defaults.keep_downloads_quiet(Console(quiet=True))
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")


def test_a_command_with_a_device_has_the_precision_of_the_model() -> None:
    root: Any = typer.main.get_command(app)
    loading = {}
    for name, command in options_page.leaves(root, "coca"):
        flags = {flag for option in options_page.options(command) for flag in option.opts}
        if "--device" in flags:
            loading[name] = "--model-precision" in flags
    # A plug-in's detector is a model of this package, by torch in fp32.
    assert {name for name, is_complete in loading.items() if not is_complete} <= {"coca detect"}
    assert {"coca index", "coca search", "coca serve", "coca mine"} <= {*loading}

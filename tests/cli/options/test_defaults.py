import os
from pathlib import Path

import pytest

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
    Path("runs/demo/pictures.db").mkdir(parents=True)
    assert Path(defaults.search_uri(None)) == Path("runs/demo/pictures.db")
    Path("coca.db").mkdir()
    assert defaults.search_uri(None) == "coca.db"
    monkeypatch.setenv("COCA_URI", "http://milvus:19530")
    assert defaults.search_uri(None) == "http://milvus:19530"
    assert defaults.search_uri("this.db") == "this.db"


def test_images_are_indexed_into_the_working_folder_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("runs/demo/pictures.db").mkdir(parents=True)
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

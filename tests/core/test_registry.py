import doctest
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from coca.core import registry
from coca.core.errors import ConfigError
from coca.core.registry import Registry

Maker = Callable[[], str]


@pytest.fixture
def makers() -> Registry[Maker]:
    makers: Registry[Maker] = Registry("greeting")

    @makers.register("hello")
    def hello() -> str:
        return "hello"

    @makers.register("farewell")
    def farewell() -> str:
        return "farewell"

    return makers


def test_a_taken_name_is_refused(makers: Registry[Maker]) -> None:
    with pytest.raises(ValueError, match="greeting 'hello' is registered already"):
        makers.register("hello")


def test_an_unknown_name_is_reported_with_the_nearest_one(makers: Registry[Maker]) -> None:
    with pytest.raises(ConfigError, match=r"^unknown greeting 'helo'; did you mean 'hello'\?$"):
        makers.get("helo")


def test_the_documented_example_runs() -> None:
    assert doctest.testmod(registry).failed == 0


def test_a_single_file_is_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "one_greeting.py"
    file.write_text("LOADED = 1\n")
    registry.load_plugin_file(file)
    # Processes that read data import it by this name.
    assert sys.modules.pop("one_greeting").LOADED == 1
    assert str(tmp_path) in sys.path


@pytest.mark.parametrize(
    ("name", "source", "sentence"),
    [
        ("absent", None, "is not a Python file"),
        ("json", "", "has the name of another module, json"),
        ("my-plugin", "", "rename it to letters"),
        ("breaks_here", "1 / 0", "cannot be loaded .ZeroDivisionError"),
    ],
)
def test_a_file_that_is_not_a_plugin_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str | None, sentence: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    if source is not None:
        (tmp_path / f"{name}.py").write_text(source)
    with pytest.raises(ConfigError, match=sentence):
        registry.load_plugin_file(tmp_path / f"{name}.py")

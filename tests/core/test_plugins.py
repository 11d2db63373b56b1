import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from coca.core import plugins
from coca.core.errors import ConfigError
from coca.core.registry import Registry

DECLARED = """
from coca.core.plugins import Plugin

PLUGIN = Plugin(adds="Greetings.", tasks={"good day": "polite_greetings:good_day"})
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install modules as plug-ins: `install(polite="source text")`."""
    monkeypatch.syspath_prepend(tmp_path)
    entries: list[EntryPoint] = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
    plugins.installed.cache_clear()

    def install(**modules: str) -> None:
        for name, source in modules.items():
            (tmp_path / f"{name}.py").write_text(source)
            entries.append(EntryPoint(name, f"{name}:PLUGIN", plugins.PLUGIN_GROUP))

    (tmp_path / "polite_greetings.py").write_text("def good_day() -> str:\n    return 'good day'\n")
    yield install
    plugins.installed.cache_clear()
    sys.modules.pop("polite_greetings", None)


def registry() -> Registry[Callable[[], str]]:
    greetings: Registry[Callable[[], str]] = Registry("greeting", "tasks")
    greetings.register("hello")(lambda: "hello")
    return greetings


def test_what_a_plugin_adds_is_imported_when_it_is_used(install: Install) -> None:
    install(polite_declared=DECLARED)
    greetings = registry()
    greetings.get("hello")
    assert "polite_declared" not in sys.modules
    assert greetings.names() == ("good day", "hello")
    assert "polite_greetings" not in sys.modules
    assert greetings.get("good day")() == "good day"


def test_a_broken_plugin_is_reported_where_a_name_is_missing_and_harms_nothing_else(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install(broken_plugin="raise RuntimeError('another version')\n", no_plugin="PLUGIN = 3\n")
    install(ends_plugin="raise SystemExit(3)\n", text_plugin=DECLARED.replace(":good_day", ""))
    install(twin=DECLARED)
    install(twin=DECLARED)
    greetings = registry()
    assert greetings.names() == ("good day", "hello")
    left_out = ["broken_plugin", "ends_plugin", "no_plugin", "text_plugin", "twin"]
    assert list(plugins.installed().broken) == left_out
    assert "plug-in broken_plugin is left out" in caplog.text
    with pytest.raises(ConfigError, match=r"did you mean .*broken_plugin .*another.*no_plugin"):
        greetings.get("hullo")


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"first_declared": DECLARED, "second_declared": DECLARED}, "first_declared and second"),
        (
            {"needy": DECLARED.replace("tasks=", "needs=('absent.part',), install='a', tasks=")},
            "needs absent.part: pip install 'a'",
        ),
        ({"wrong": DECLARED.replace(":good_day", ":good_night")}, "cannot be imported .Attribute"),
        ({"number": DECLARED.replace(":good_day", ":__name__")}, "must be a function or class"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    install: Install, declared: dict[str, str], sentence: str
) -> None:
    install(**declared)
    with pytest.raises(ConfigError, match=sentence):
        registry().get("good day")


def test_each_part_of_this_package_is_declared_and_can_be_found() -> None:
    plugins.installed.cache_clear()
    found, broken = plugins.installed()
    assert broken == {}
    for plugin in found.values():
        for point in plugins.POINTS:
            for target in plugin.names(point).values():
                module, _, attribute = target.partition(":")
                file = Path(*module.split("."))
                root = Path(plugins.__file__).parents[2]
                assert (root / file).with_suffix(".py").is_file() or (root / file).is_dir(), target
                assert attribute

import sys
from pathlib import Path

import pytest

from coca.core.errors import MissingExtraError
from coca.core.extras import require


def test_an_installed_module_is_returned() -> None:
    assert require("json.decoder", extra="any") is sys.modules["json.decoder"]


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_an_absent_package_is_one_sentence_with_the_pip_command(module: str) -> None:
    with pytest.raises(MissingExtraError, match=r"no_such_package .* pip install .*\[torch\]"):
        require(module, extra="torch")


@pytest.mark.parametrize(
    ("content", "error", "named"),
    [
        ("import its_own_dependency", ModuleNotFoundError, "its_own_dependency"),
        ("raise ImportError('wrong libstdc++')", ImportError, "wrong libstdc"),
    ],
)
def test_a_package_that_fails_to_import_is_not_called_absent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
    error: type[ImportError],
    named: str,
) -> None:
    (tmp_path / "half_installed.py").write_text(f"{content}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match=named):
        require("half_installed", extra="torch")

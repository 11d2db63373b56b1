import sys
from pathlib import Path

import pytest

from coca.core.errors import MissingExtraError
from coca.core.extras import require


def test_an_installed_module_is_returned() -> None:
    assert require("json.decoder", extra="any") is sys.modules["json.decoder"]


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_an_absent_package_is_one_sentence_with_the_pip_command(module: str) -> None:
    with pytest.raises(MissingExtraError, match=r"no_such_package .* pip install .*\[search\]"):
        require(module, extra="search")


def test_a_package_that_itself_lacks_a_dependency_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import its_own_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="its_own_dependency"):
        require("half_installed", extra="search")


def test_a_package_that_fails_to_import_is_not_called_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_on_import.py").write_text("raise ImportError('wrong libstdc++')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="wrong libstdc"):
        require("broken_on_import", extra="search")

"""Optional dependencies, imported only where they are needed."""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from coca.core.errors import MissingExtraError


@contextmanager
def extra_imports(package: str, *, extra: str) -> Iterator[None]:
    """Raise an error with the pip command if an import within the block misses the package."""
    try:
        yield
    except ModuleNotFoundError as error:
        # An installed package that lacks one of its own dependencies is a different error, whose
        # message names the missing module.
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MissingExtraError(package, extra) from error


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module, or raise an error with the pip command that installs it."""
    with extra_imports(module.partition(".")[0], extra=extra):
        return importlib.import_module(module)


def require_installed(module: str, *, extra: str) -> None:
    """Raise the error of `require` if a module is missing, without importing it."""
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(module, extra)

"""Optional dependencies, imported only where they are needed."""

import importlib
from types import ModuleType

from coca.core.errors import MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """The imported module, or one sentence with the pip command that brings it.

    Args:
        module: Dotted name to import, such as `"pymilvus"`.
        extra: The extra of this distribution that installs it, such as `"search"`.

    Raises:
        MissingExtraError: The package of `module` is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A package that is installed but lacks a dependency of its own is a different fault:
        # its own message names what is missing.
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MissingExtraError(package, extra) from error

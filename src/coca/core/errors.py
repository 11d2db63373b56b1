"""Exception hierarchy of the package.

    CocaError
    +-- ConfigError         a setting is invalid; the command line exits with 2
    +-- DataError           an image, caption or shard cannot be used; carries a short `reason`
    +-- ModelError          a checkpoint or model folder cannot be used
    |   +-- UnsupportedError  the runtime of the model does not have this operation
    +-- SearchError         the collection cannot answer
    |   +-- ArgumentError   an argument of a search is invalid; also a ConfigError
    +-- StorageError        a file cannot be read or written: disk full or no permission
    +-- MissingExtraError   an optional dependency is not installed

A message is one sentence: the setting or file, the value given, and the allowed values.
"""

from collections.abc import Iterable
from difflib import get_close_matches

from coca.core.installation import pip_install


class CocaError(Exception):
    """Base class of errors that the user can fix; printed without a traceback."""

    def __str__(self) -> str:
        # Names of files and of members of a tar may be no UTF-8, which no log could encode.
        return super().__str__().encode("utf-8", "backslashreplace").decode()


class ConfigError(CocaError):
    """A setting is unknown, has the wrong type, or contradicts another."""


class DataError(CocaError):
    """A sample, shard or source cannot be used.

    Attributes:
        reason: Short slug for counting bad samples, such as `"truncated"`.
    """

    def __init__(self, message: str, *, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes pickle errors, which would lose the keyword argument.
        return (_rebuild_data_error, (str(self), self.reason))


def _rebuild_data_error(message: str, reason: str) -> DataError:
    return DataError(message, reason=reason)


class ModelError(CocaError):
    """A checkpoint or model folder is missing, damaged, or does not fit."""


class UnsupportedError(ModelError):
    """The runtime of the model does not have this operation, such as heads in an exported model."""


class SearchError(CocaError):
    """The collection is missing, locked, or was filled by another model."""


class ArgumentError(SearchError, ConfigError):
    """An argument for a collection is out of range or contradicts another; nothing was done yet."""


class StorageError(CocaError):
    """The disk is full, the permission is missing, or the path has the wrong type."""


class MissingExtraError(CocaError):
    """An optional dependency is not installed; the message has the pip command."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed: {pip_install(extra)}")
        self.module = module
        self.extra = extra

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are rebuilt from `args`, which has the message and not the two names.
        return (type(self), (self.module, self.extra))


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Suggest the closest valid name for the end of an error message, or list all names."""
    names = sorted(known)
    if near := get_close_matches(given, names, n=1):
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(names)}" if names else "none is known"

"""Every error that this package raises for its users, as one tree.

    CocaError
    +-- ConfigError         a setting is wrong; the command line exits with 2
    +-- DataError           an image, caption or shard cannot be used; carries a short `reason`
    +-- ModelError          a checkpoint or model folder cannot be used
    +-- SearchError         the collection cannot answer
    |   +-- ArgumentError   an argument of a search is wrong; a ConfigError as well
    +-- StorageError        a file cannot be read or written, for want of room or permission
    +-- MissingExtraError   an optional dependency is not installed

A message is one sentence: what, with which value, and what would be right.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class CocaError(Exception):
    """Anything that the user can put right; its text is shown without a traceback."""


class ConfigError(CocaError):
    """A setting is unknown, has the wrong type, or contradicts another."""


class DataError(CocaError):
    """A sample, shard or source cannot be used.

    Attributes:
        reason: A short slug by which bad samples are counted, such as `"truncated"`.
    """

    def __init__(self, message: str, *, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send errors by pickle, which would drop the keyword.
        return (_rebuild_data_error, (str(self), self.reason))


def _rebuild_data_error(message: str, reason: str) -> DataError:
    return DataError(message, reason=reason)


class ModelError(CocaError):
    """A checkpoint or model folder is missing, damaged, or does not fit."""


class SearchError(CocaError):
    """The collection is missing, locked, or was filled by another model."""


class ArgumentError(SearchError, ConfigError):
    """An argument for a collection is out of range or contradicts another; nothing was done yet."""


class StorageError(CocaError):
    """The disk is full, the permission is missing, or the path is not what it should be."""


class MissingExtraError(CocaError):
    """An optional dependency is not installed; the message holds the pip command."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"{module} is needed for this: pip install 'coca-captioners[{extra}]' brings it"
        )
        self.module = module
        self.extra = extra

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are rebuilt from `args`, which holds the sentence and not the two names.
        return (type(self), (self.module, self.extra))


def check_options(given: Iterable[str], known: Iterable[str], *, of: str) -> None:
    """Refuse keywords that a call does not know, which it would ignore or raise a TypeError for.

    Args:
        given: Names of the keywords.
        known: Names that are right.
        of: What takes them, such as "captioning".

    Raises:
        ConfigError: One is unknown; the message holds the nearest right name.
    """
    names = list(known)
    for name in given:
        if name not in names:
            raise ConfigError(f"{of} has no option {name!r}; {did_you_mean(name, names)}")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest right one, or all of them."""
    names = sorted(known)
    if near := get_close_matches(given, names, n=1):
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(names)}" if names else "none is known"

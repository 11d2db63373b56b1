"""Class names of options: a list `a,b,c`, or a text file with one name per line."""

from pathlib import Path

from coca.core.errors import ConfigError

_TEXT_SUFFIXES = (".txt", ".csv", ".tsv", ".list", ".lst")


def read_names(listed: str) -> list[str]:
    """Read the names of an option: from the file of that name if it exists, else from `a,b,c`."""
    path = Path(listed)
    if listed and path.is_file():
        return lines_of(path)
    if "," not in listed and path.suffix.lower() in _TEXT_SUFFIXES:
        raise ConfigError(f"there is no file {listed} to read labels from")
    return [name for part in listed.split(",") if (name := part.strip())]


def lines_of(path: Path) -> list[str]:
    """Read one name per line; empty lines are skipped."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the labels in {path} cannot be read: {error}") from error
    return [name for line in lines if (name := line.strip())]

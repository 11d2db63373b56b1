"""Commands as README, docs and recipes show them: each with its page and line."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
GENERATED = ("options.md", "photo-credits.md")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    # Not those that `make docs` writes.
    *sorted({*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / name for name in GENERATED}),
]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str


class Command(NamedTuple):
    """A command of a page, without its comment."""

    page: Path
    line: int
    text: str

    @property
    def arguments(self) -> list[str]:
        """The command behind `coca`."""
        words = shlex.split(self.text)
        return words[words.index("coca") + 1 :]


def name_of(value: object) -> str:
    """A position in a page as the name of a test."""
    if isinstance(value, Block | Command):
        return f"{value.page.relative_to(ROOT).as_posix()}:{value.line}"
    return value.relative_to(ROOT).as_posix() if isinstance(value, Path) else str(value)


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, match[1], match[2])


def commands_of(page: Path) -> Iterator[Command]:
    """The lines of a page's shell blocks, of which each is one command."""
    for block in blocks(page):
        if block.language == "sh":
            for offset, line in enumerate(block.text.splitlines(), start=1):
                text = re.split(r"\s#(?:\s|$)", line, maxsplit=1)[0].strip()
                if text and not text.startswith("#"):
                    yield Command(page, block.line + offset, text)


def commands_of_recipe(path: Path) -> Iterator[Command]:
    """The commands in the head of a recipe; several may share a line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    at = next((n for n, line in enumerate(lines) if line.startswith("# Command")), len(lines))
    commands = ""
    for line in lines[at:]:
        text = line.removeprefix("# Command").lstrip("# ")
        if not line.startswith("#") or (re.match(r"# [A-Z]\w+ ", line) and commands):
            break
        commands += ("\n" if text.startswith(("coca ", "torchrun ", "python ")) else " ") + text
    program = r"^(?:python recipes/|(?:torchrun .* -m )?coca )[^;()\n]*"
    for match in re.finditer(program, commands.replace(" && ", "\n"), re.MULTILINE):
        # Words behind the command, such as "another seed:", end it.
        plain = re.split(r"\s(?:\w+ ){1,4}\w+:", match[0], maxsplit=1)[0]
        yield Command(path, at + 1, plain.strip())


COMMANDS = [command for page in PAGES for command in commands_of(page)]
OF_RECIPES = [command for path in RECIPES for command in commands_of_recipe(path)]

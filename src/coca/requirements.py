"""Requirements of an environment without torch: `python -m coca.requirements serve`.

Run after `pip install --no-deps`, so it imports the standard library only. Its output is a
requirements file.
"""

import argparse
import re
from collections.abc import Iterable
from importlib.metadata import requires

DISTRIBUTION = "coca-captioners"
NEEDS_TORCH = frozenset({"einops", "torch", "torchvision"})
"""Dependencies of the distribution that an exported model does not use."""
ALWAYS = "runtime"
EXTRAS = ("heif", "hub", "mcp", "milvus", "milvus-lite", "raw", "search", "serve", "test", "video")
"""Extras whose packages run without torch."""


def requirements_without_torch(extras: Iterable[str] = ()) -> list[str]:
    """List the requirements of the installed distribution, except those that need torch.

    Returns:
        Requirements such as `numpy>=2.0`, sorted, each once.
    """
    wanted = {None, ALWAYS, *extras}
    found = set()
    for line in requires(DISTRIBUTION) or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        if (extra[1] if extra else None) in wanted and name not in NEEDS_TORCH:
            found.add(requirement.strip())
    return sorted(found)


def main() -> None:
    """Print one requirement per line."""
    parser = argparse.ArgumentParser(
        prog="python -m coca.requirements",
        description="Print the packages that run an exported model without torch.",
    )
    parser.add_argument(
        "extras",
        nargs="*",
        metavar="EXTRA",
        help=f"{', '.join(EXTRAS)}; may be repeated",
    )
    extras = parser.parse_args().extras
    if unknown := [name for name in extras if name not in EXTRAS]:
        parser.error(f"no extra {unknown[0]!r} without torch; there are {', '.join(EXTRAS)}")
    print(*requirements_without_torch(extras), sep="\n")  # noqa: T201 - its purpose


if __name__ == "__main__":
    main()

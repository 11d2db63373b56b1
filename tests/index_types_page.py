"""The page docs/reference/index-types.md, written from the table of index types.

python tests/index_types_page.py    writes the page again after a change of the table
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from coca.search.index_params.index_types import (
    INDEX_TYPES,
    BuildParam,
    IndexType,
    SearchParam,
    as_text,
)

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "index-types.md"

_HEAD = """# Index types

```sh
coca collection index pictures HNSW:M=32,efConstruction=400
```

This page is written from the table in `coca.search.index_params.index_types`; a test compares them.
[Milvus](../milvus.md#which-index) compares the types by recall, time and memory.

- **Build parameters** follow the type, as `TYPE:NAME=VALUE,...`. A parameter without a default is
  not sent, so Milvus uses its own default.
- **Search parameters** follow from `k`, the number of results with the skipped results, and from
  `effort`, which is 1 by default.
- Where a type is unsupported, the closest type is built: on Lite with a warning, on a server with
  `--fallback`. Zilliz Cloud builds `AUTOINDEX` for every type but `FLAT`.

## Types
"""


def page() -> str:
    """Format the page."""
    types = table(
        (
            "type",
            "server",
            "Lite",
            "needs",
            "vectors",
            "metrics",
            "max results",
            "scores",
            "closest type",
        ),
        map(_summary, INDEX_TYPES.values()),
    )
    sections = "\n".join(_section(spec) for spec in INDEX_TYPES.values())
    return f"{_HEAD}\n{types}\n{sections}"


def _summary(spec: IndexType) -> tuple[str, ...]:
    return (
        f"`{spec.name}`",
        version(spec.since),
        "yes" if spec.lite else "no",
        spec.hardware or "memory",
        ", ".join(spec.precisions),
        ", ".join(spec.metrics),
        f"{spec.max_results:,}",
        "exact" if spec.exact_scores else "approximate",
        f"`{spec.next_best}`: {spec.loss}" if spec.next_best else "",
    )


def _section(spec: IndexType) -> str:
    parts = [f"### {spec.name}", spec.about]
    if spec.build:
        columns = ("build parameter", "default", "allowed", "meaning")
        parts.append(table(columns, map(_build, spec.build)).rstrip())
    if spec.search:
        parts.append(table(("search parameter", "value"), map(_search, spec.search)).rstrip())
    return "\n\n".join(parts) + "\n"


def _build(param: BuildParam) -> tuple[str, ...]:
    allowed = f"{param.allowed}; must divide the vector size" if param.divides else param.allowed
    since = f" From Milvus {version(param.since)}." if param.since > (0, 0, 0) else ""
    default = "" if param.default is None else f"`{as_text(param.default)}`"
    return f"`{param.name}`", default, allowed, param.about + since


def _search(param: SearchParam) -> tuple[str, ...]:
    switch = param.only_if.removeprefix("!")
    value = "false" if switch != param.only_if else "true"
    return f"`{param.name}`", param.rule.formula + (f", if `{switch}={value}`" if switch else "")


def version(numbers: tuple[int, int, int]) -> str:
    """Format a version without a patch number of 0."""
    return ".".join(map(str, numbers)).removesuffix(".0")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines).replace("| --- ", "|---")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

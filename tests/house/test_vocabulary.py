"""Prose uses the field's terms, as far as a search can find the others; codespell finds words."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "src" / "coca"
RECORDS: set[str] = set()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
# The old form of errors, "k is 2.5; right is a whole number", for "k must be a whole number".
PHRASES = re.compile(
    r"\b(laid (?:out|open)|gives? back|given back|second thoughts|brings (?:it|them)"
    r"|(?<![Tt]here )is no (?:file|folder|model|number|image|path|name)\b|right (?:is|are)\b"
    r"|a Milvus(?! (?:Lite|server|cluster|collection|instance|version|filter)))"
)


def test_pages_and_source_use_the_terms_of_the_field() -> None:
    files = [path for path in PAGES if path.name not in RECORDS] + list(PACKAGE.rglob("*.py"))
    lines = {
        f"{path.relative_to(ROOT)}:{number}": line
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    }
    assert {place: line for place, line in lines.items() if PHRASES.search(line)} == {}


def test_the_file_walks_name_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+/[\w/]+\.py)`", text)
    assert len(named) > 30
    missing = [it for it in named if not (PACKAGE / it).exists() and not (ROOT / it).exists()]
    assert missing == []

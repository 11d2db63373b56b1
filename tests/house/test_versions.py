"""Versions: CHANGELOG.md has a section for each, and `__version__` is the newest or the next."""

import datetime
import re
from pathlib import Path

from packaging.version import Version

import coca

CHANGELOG = (Path(__file__).parent.parent.parent / "CHANGELOG.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)


def releases() -> list[tuple[Version, datetime.date]]:
    """The released sections, in the order of the file."""
    matches = [
        re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", line) for line in HEADINGS[1:]
    ]
    assert None not in matches, HEADINGS
    return [(Version(m[1]), datetime.date.fromisoformat(m[2])) for m in matches if m]


def test_the_changelog_opens_with_what_is_unreleased() -> None:
    assert HEADINGS[0] == "[Unreleased]"


def test_released_sections_descend_by_version_and_date() -> None:
    versions, dates = zip(*releases(), strict=True)
    assert list(versions) == sorted(set(versions), reverse=True)
    assert list(dates) == sorted(dates, reverse=True)


def test_the_version_is_the_newest_release_or_a_development_version_after_it() -> None:
    version, newest = Version(coca.__version__), releases()[0][0]
    unreleased = CHANGELOG.split("\n## ")[1]
    if re.search(r"^- ", unreleased, re.MULTILINE):
        # pip replaces an installed release by a wheel of a later version only.
        assert version.is_devrelease
        assert version > newest
    else:
        assert version == newest or (version.is_devrelease and version > newest)


def test_no_section_has_a_heading_twice() -> None:
    for section in CHANGELOG.split("\n## ")[1:]:
        headings = re.findall(r"^### .*$", section, re.MULTILINE)
        assert len(headings) == len(set(headings)), section.splitlines()[0]

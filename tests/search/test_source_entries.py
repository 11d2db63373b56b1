import pytest

from coca.search.source_entries import (
    has_priority,
    replace_source_entry,
    source_of,
    split_source_entries,
)

FILE, TABLE, OTHER = "10-20", "0123abcd:77,0123abcd:78", "ffffffff:1"


def test_the_newest_entry_of_a_source_replaces_its_old_one() -> None:
    both = replace_source_entry([FILE], TABLE, first=True)
    assert split_source_entries(both) == [TABLE, FILE]
    assert split_source_entries(
        replace_source_entry(split_source_entries(both), "11-21", first=False)
    ) == [TABLE, "11-21"]
    assert split_source_entries(
        replace_source_entry(split_source_entries(both), OTHER, first=True)
    ) == [OTHER, TABLE, FILE]
    assert split_source_entries(replace_source_entry([], "", first=True)) == [""]


def test_tables_are_distinguished_and_everything_else_counts_as_one() -> None:
    assert [source_of(one) for one in (TABLE, OTHER)] == ["0123abcd:", "ffffffff:"]
    assert {source_of(one) for one in (FILE, "", "10-20/5s+", "0123abcd", 'W/"12:34"')} == {""}


@pytest.mark.parametrize(
    ("etag", "caption", "over", "captioned", "prior"),
    [
        (TABLE, "said", FILE, True, True),
        (TABLE, "", FILE, True, False),
        (TABLE, "", FILE, False, True),
        (FILE, "said", TABLE, True, False),
        (FILE, "said", TABLE, False, True),
        (FILE, "", TABLE, False, False),
        (OTHER, "said", TABLE, True, True),
        (OTHER, "", TABLE, True, False),
    ],
)
def test_captions_go_first_then_tables_then_the_latest(
    etag: str, caption: str, over: str, captioned: bool, prior: bool
) -> None:
    assert has_priority(etag, caption, over=over, captioned=captioned) == prior

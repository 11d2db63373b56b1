from itertools import product

import pytest

from coca.search.ingest.ingest_report import Copy, IngestReport
from coca.search.ingest.upsert_rules import (
    COUNTS,
    MERGES,
    Count,
    CountCase,
    Merge,
    MergeCase,
    decide_count,
    decide_merge,
    matches,
)

BOTH = (False, True)
MERGE_CASES = [MergeCase(*values) for values in product(BOTH, repeat=5)]
COUNT_CASES = [CountCase(*values) for values in product(Merge, BOTH, BOTH)]


@pytest.mark.parametrize(("table", "cases"), [(MERGES, MERGE_CASES), (COUNTS, COUNT_CASES)])
def test_every_combination_of_conditions_is_in_exactly_one_row(
    table: object, cases: object
) -> None:
    assert isinstance(table, tuple)
    assert isinstance(cases, list)
    for case in cases:
        assert sum(matches(pattern, case) for pattern, _ in table) == 1, case
    for pattern, _ in table:
        assert any(matches(pattern, case) for case in cases), pattern


@pytest.mark.parametrize("case", MERGE_CASES, ids=lambda case: "".join("ny"[one] for one in case))
def test_the_path_and_the_metadata_of_a_record_follow_these_rules(case: MergeCase) -> None:
    merge = decide_merge(case)
    becomes_primary = not case.is_primary and (
        not case.has_current_primary or (case.gives_caption and not case.has_given_caption)
    )
    assert (merge in (Merge.TAKE_OVER, Merge.GIVE_CAPTION)) == becomes_primary
    assert (merge in (Merge.UPDATE, Merge.KEEP)) == case.is_primary
    # A path that is or becomes primary brings its metadata, unless another source has priority.
    outranked = case.is_primary and case.is_outranked
    assert merge.replaces_metadata == ((case.is_primary or becomes_primary) and not outranked)
    # A given caption is replaced only at the primary path, or where that path is gone.
    if case.has_given_caption and merge is not Merge.TAKE_OVER:
        assert not merge.replaces_metadata or case.is_primary
    # A missing primary path is reason enough: the caption need not be.
    assert (merge is Merge.TAKE_OVER) == (not case.is_primary and not case.has_current_primary)


@pytest.mark.parametrize("case", COUNT_CASES)
def test_an_item_is_a_duplicate_only_at_a_new_path(case: CountCase) -> None:
    count = decide_count(case)
    at_primary = case.merge in (Merge.UPDATE, Merge.KEEP)
    if at_primary:
        assert count is (Count.UNCHANGED if case.is_same else Count.UPDATED)
    elif case.merge is Merge.TAKE_OVER:
        assert count is Count.UPDATED
    elif case.is_new_path:
        assert count is Count.DUPLICATE
    else:
        assert count is (Count.UNCHANGED if case.merge is Merge.COPY else Count.UPDATED)


@pytest.mark.parametrize(
    ("count", "report"),
    [
        (Count.UNCHANGED, IngestReport(unchanged=1)),
        (Count.UPDATED, IngestReport(updated=1)),
        (Count.DUPLICATE, IngestReport(duplicates=1)),
    ],
)
def test_each_item_is_counted_once_and_duplicates_are_listed(
    count: Count, report: IngestReport
) -> None:
    counted = IngestReport()
    counted.count(count, "/b", of="/a")
    assert counted == report
    assert counted.copies == ([Copy("/b", "/a")] if count is Count.DUPLICATE else [])

import copy
import operator
import pickle
import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coca.core.errors import SearchError
from coca.search.filters import (
    all_of,
    any_of,
    between,
    has_all_tags,
    has_any_tag,
    negate,
    taken,
    where,
)
from coca.search.milvus.catalog import drop_collection
from coca.search.milvus.collection import Collection
from coca.search.records import Origin, Record

EXAMPLES = 2 * settings().max_examples
"""Twice as many as elsewhere, since a filter is a tree; `HYPOTHESIS_PROFILE=thorough` has more."""

Keeps = Callable[[Record], bool]
Case = Callable[[], tuple[str, Keeps]]
"""Built lazily: a strategy may draw, but not run type-checked code."""

COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NASTY = ['"', "\\", '\\"', "'", "\n", ") or (1 == 1", '" or id != "', "%", "_", "{x}", "$", "", " "]
"""Characters that end a literal, join expressions, or are wildcards."""
WORDS = [*NASTY, "barbell", "kettlebell", "Ä", "東京", "barbell "]
NUMBERS: list[int | float] = [-(2**53), -1, 0, 0.5, 1e-7, 2, 2.5, 1e16, 2**53]
TAGS = ["cat", 'a "b"', "\\", "new\nline", ""]


def later(make: Callable[..., tuple[str, Keeps]]) -> Callable[..., Case]:
    return lambda *arguments: lambda: make(*arguments)


def compare(sign: str, stored: Any, asked: Any) -> bool:
    """Compare values of one type as Python does; other types are never equal or ordered."""
    alike = isinstance(stored, str) == isinstance(asked, str) and stored is not None
    return COMPARE[sign](stored, asked) if alike else sign == "!="


def column(name: str, values: list[Any]) -> st.SearchStrategy[Case]:
    def make(sign: str, value: Any) -> tuple[str, Keeps]:
        return where(name, sign, value), lambda record: compare(sign, getattr(record, name), value)

    def make_in(sign: str, some: list[Any]) -> tuple[str, Keeps]:
        inside = sign == "in"
        return where(name, sign, some), lambda record: (getattr(record, name) in some) == inside

    return st.one_of(
        st.builds(later(make), st.sampled_from(list(COMPARE)), st.sampled_from(values)),
        st.builds(
            later(make_in),
            st.sampled_from(["in", "not in"]),
            st.lists(st.sampled_from(values), max_size=3),
        ),
    )


def source() -> st.SearchStrategy[Case]:
    """Caption source, as `where` compares it."""

    def make(sign: str, value: Any) -> tuple[str, Keeps]:
        asked = value if sign in ("in", "not in") else [value]
        return (
            where("caption_source", sign, value),
            lambda record: (record.caption_source in asked) == (sign in ("==", "in")),
        )

    values = st.sampled_from(["given", "model", ""])
    return st.one_of(
        st.builds(later(make), st.sampled_from(["==", "!="]), values),
        st.builds(later(make), st.sampled_from(["in", "not in"]), st.lists(values, max_size=3)),
    )


def key(name: str) -> st.SearchStrategy[Case]:
    def make(sign: str, value: Any) -> tuple[str, Keeps]:
        return (
            where(f"metadata.{name}", sign, value),
            lambda record: compare(sign, record.metadata.get(name), value),
        )

    def make_in(sign: str, some: list[Any]) -> tuple[str, Keeps]:
        return (
            where(f"metadata.{name}", sign, some),
            lambda record: (
                any(compare("==", record.metadata.get(name), one) for one in some) == (sign == "in")
            ),
        )

    values = st.sampled_from([*WORDS, *NUMBERS])
    return st.one_of(
        st.builds(later(make), st.sampled_from(list(COMPARE)), values),
        st.builds(later(make_in), st.sampled_from(["in", "not in"]), st.lists(values, max_size=3)),
    )


def tagged(tags: list[str], every: bool) -> tuple[str, Keeps]:
    if every:
        return has_all_tags(tags), lambda record: set(tags) <= set(record.tags)
    return has_any_tag(tags), lambda record: bool(set(tags) & set(record.tags))


def ranged(least: int | None, most: int | None) -> tuple[str, Keeps]:
    return (
        between("width", least, most),
        lambda record: (
            (least is None or record.width >= least) and (most is None or record.width <= most)
        ),
    )


def joined(cases: list[Case], every: bool) -> tuple[str, Keeps]:
    made = [case() for case in cases]
    join, loop = (all_of, all) if every else (any_of, any)
    return join(*(text for text, _ in made)), lambda record: loop(
        keeps(record) for _, keeps in made
    )


def opposite(case: Case) -> tuple[str, Keeps]:
    text, keeps = case()
    return negate(text), lambda record: not keeps(record)


LEAVES = st.one_of(
    column("caption", WORDS),
    column("album", WORDS),
    source(),
    column("width", [0, 1, 640, 2**53]),
    key("kind"),
    key('a "key"] or ["'),
    st.builds(later(tagged), st.lists(st.sampled_from(TAGS), max_size=2), st.booleans()),
    st.builds(later(ranged), st.sampled_from([None, 1, 640]), st.sampled_from([None, 0, 640])),
)
CASES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(later(opposite), inner),
        st.builds(later(joined), st.lists(inner, max_size=3), st.booleans()),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module", params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
def stored(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Collection, list[Record]]]:
    """Build records with all combinations of values, some missing."""
    if request.param == "lite":
        uri = str(tmp_path_factory.mktemp("filters") / "pictures.db")
    else:
        uri = request.getfixturevalue("milvus_server")
    collection = f"test_{uuid.uuid4().hex[:12]}"
    with Collection.open(uri, collection, embed_dim=4, fingerprint="one", create=True) as opened:
        records = list(every_kind_of_record())
        opened.upsert(records)
        assert opened.count() == len(records)
        yield opened, records
        drop_collection(opened._connection, collection)


def every_kind_of_record() -> Iterator[Record]:
    kinds: list[dict[str, Any]] = [
        {},
        {"kind": None},
        *({"kind": value} for value in (*WORDS, *NUMBERS)),
        *({'a "key"] or ["': value} for value in ("barbell", 2, '"')),
    ]
    for n in range(64):
        tags = tuple(tag for bit, tag in enumerate(TAGS) if n >> bit & 1)
        yield Record(
            id=f"r{n}",
            path=f"{n}.jpg",
            caption=WORDS[n % len(WORDS)],
            album=WORDS[-(n % 7)],
            width=[0, 1, 640, 2**53][n % 4],
            time=n * 86_400,
            tags=tags,
            metadata=kinds[n % len(kinds)],
            origin=Origin(captioned=n % 3 == 0),
            vector=np.eye(4, dtype=np.float32)[0],
        )


@given(case=CASES)
@settings(max_examples=EXAMPLES)
def test_a_filter_keeps_what_a_plain_loop_keeps(
    stored: tuple[Collection, list[Record]], case: Case
) -> None:
    collection, records = stored
    text, keeps = case()
    assert found(collection, text) == {record.id for record in records if keeps(record)}


@pytest.mark.parametrize(("field", "value"), [("width", 640), ("metadata.kind", 2)])
def test_a_comparison_and_its_opposite_share_no_record_and_leave_none_out(
    stored: tuple[Collection, list[Record]], field: str, value: int
) -> None:
    collection, records = stored
    everything = {record.id for record in records}
    for sign in COMPARE:
        kept = found(collection, where(field, sign, value))
        assert found(collection, negate(where(field, sign, value))) == everything - kept


@given(value=st.text(st.characters(exclude_categories=["Cs"]), max_size=12), leaf=LEAVES)
@settings(max_examples=EXAMPLES)
def test_no_value_widens_a_filter(
    stored: tuple[Collection, list[Record]], value: str, leaf: Case
) -> None:
    collection, records = stored
    narrow = all_of(where("id", "==", "r1"), any_of(where("metadata.kind", "==", value), leaf()[0]))
    assert found(collection, narrow) <= {"r1"}
    assert found(collection, all_of(where("caption", "==", value), has_any_tag([value]))) <= {
        record.id for record in records if record.caption == value and value in record.tags
    }


def test_a_day_has_all_of_its_seconds_and_no_time_is_no_day(
    stored: tuple[Collection, list[Record]],
) -> None:
    collection, _ = stored
    assert found(collection, taken(since=date(1970, 1, 4), until=date(1970, 1, 5))) == {"r3", "r4"}
    assert found(collection, taken(until=date(1970, 1, 2))) == {"r1"}
    noon = datetime(1970, 1, 4, 12)
    assert found(collection, taken(since=noon, until=datetime(1970, 1, 5))) == {"r4"}
    elsewhere = datetime(1970, 1, 5, 2, tzinfo=timezone(timedelta(hours=2)))
    with pytest.raises(SearchError, match=r"without a zone, such as 1970-01-05T02:00:00, got"):
        taken(until=elsewhere)
    with pytest.raises(SearchError, match="the end comes first"):
        taken(since=date(1970, 1, 5), until=date(1970, 1, 4))


def test_a_day_before_1970_ends_with_its_last_second() -> None:
    assert "time <= -1)" in taken(until=date(1969, 12, 31))


def test_a_filter_is_copied_with_its_opposite() -> None:
    narrow = where("metadata.kind", "==", "cat")
    for twin in (copy.deepcopy(narrow), pickle.loads(pickle.dumps(narrow))):
        assert (twin, negate(twin)) == (narrow, negate(narrow))


def test_a_filter_of_ones_own_joins_only_as_a_whole(
    stored: tuple[Collection, list[Record]],
) -> None:
    collection, _ = stored
    own = 'id == "r1" or id == "r2"'
    assert found(collection, all_of(own, where("id", "!=", "r1"))) == {"r2"}
    assert len(found(collection, negate(own))) == 62
    assert all_of("", own) == own
    for broken in ('id == "r1") or (id != ""', '(id == "r1"', "id == 'r1", 'id == "r1'):
        with pytest.raises(SearchError, match="without its partner"):
            negate(broken)
        with pytest.raises(SearchError, match="without its partner"):
            all_of(broken, own)
        with pytest.raises(SearchError, match="without its partner"):
            any_of(own, broken)
    with pytest.raises(SearchError, match="keeps everything"):
        negate("")
    with pytest.raises(SearchError, match="keeps everything"):
        any_of(own, "")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("vector", "==", 1), "no filter on 'vector'"),
        (("tags", "==", "x"), "lists in the metadata have has_any_tag"),
        (("caption", "~", "x"), "no operator '~'"),
        (("caption", "in", "x"), "needs a list"),
        (("caption", "not in", 3), "needs a list"),
        (("caption", "==", 3), "compared with text"),
        (("width", ">", "x"), "compared with whole numbers"),
        (("width", ">", 1.5), "compared with whole numbers"),
        (("width", ">", True), "compared with whole numbers"),
        (("width", "<", 2**63), "too large"),
        (("metadata.x", "<", True), "no order"),
        (("caption_source", "==", "everyday"), "got == 'everyday'"),
        (("caption_source", "in", ["model", 3]), "got == 3"),
        (("caption_source", "<", "model"), "got < 'model'"),
        (("metadata.x", "==", float("inf")), "not inf"),
        (("metadata.x", "==", float("nan")), "not nan"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(arguments: Any, fault: str) -> None:
    with pytest.raises(SearchError, match=fault):
        where(*arguments)


@pytest.mark.parametrize(
    ("own", "keeps"),
    [
        ('caption_source == "model"', lambda record: record.caption_source == "model"),
        ("caption_source != 'given'", lambda record: record.caption_source != "given"),
        (
            'not (caption_source in ["model", ""]) and width > 0',
            lambda record: record.caption_source == "given" and record.width > 0,
        ),
        (
            'caption_source  not  in ["given"] or id == "caption_source == 3"',
            lambda record: record.caption_source != "given",
        ),
        ('caption like "caption_source%"', lambda record: False),
    ],
)
def test_a_filter_of_ones_own_may_name_the_source_of_captions(
    stored: tuple[Collection, list[Record]], own: str, keeps: Keeps
) -> None:
    collection, records = stored
    kept = {record.id for record in records if keeps(record)}
    assert set(collection.ids(own)) == kept
    assert collection.count(own) == len(kept)
    hits = collection.search(records[0].vector[np.newaxis], 64, filter=own)[0]
    assert {hit.id for hit in hits} == kept
    sources = {record.id: record.caption_source for record in records}
    assert all(hit.caption_source == sources[hit.id] for hit in hits)


@pytest.mark.parametrize(
    "own", ['"model" == caption_source', "caption_source == model", 'caption_source like "m%"']
)
def test_another_comparison_of_the_source_of_captions_is_refused(
    stored: tuple[Collection, list[Record]], own: str
) -> None:
    with pytest.raises(SearchError, match="caption_source in a filter is compared by"):
        stored[0].ids(own)


def test_one_text_is_no_list_of_tags() -> None:
    for function in (has_any_tag, has_all_tags):
        with pytest.raises(SearchError, match="list of texts"):
            function("cat")


def found(collection: Collection, filter: str) -> set[str]:
    # The records are old; strong consistency would take 0.2 s each time.
    rows = collection._images._client.query(
        collection.info.collection,
        filter=filter,
        output_fields=["id"],
        consistency_level="Eventually",
    )
    return {row["id"] for row in rows}

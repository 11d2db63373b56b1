"""Queries with a typing error, and names by their beginning."""

from collections.abc import Callable
from typing import Any

import pytest

from coca.search.query.corrections import MAX_WORDS, Corrections
from coca.search.query.engine import SearchEngine
from coca.search.records import Origin, Record
from coca.search.spelling import MAX_LETTERS
from coca.search.store import Collection

TOKENS = frozenset(["a", "the", "cat", "car", "beach", "rain", "sunset", "flower", "book"])
"""Words that are one token of the model."""


class Model:
    """An embedder of texts whose tokenizer has few words."""

    def leading_ids(self, text: str, count: int) -> list[int]:
        return [0] * (1 if text in TOKENS else count)


@pytest.fixture
def library(collection: Collection, make_record: Callable[..., Record]) -> Collection:
    """Photos with captions, people, places, albums and tags."""
    captions = [
        *("a dog on the beach", "a brown dog in the grass", "a horse near a waterfall"),
        *("two hands", "an elephant", "the Eiffel tower"),
    ]
    records = [make_record(f"captions{n}", caption=text) for n, text in enumerate(captions)]
    people = ("Jorgen", "Cate", "Grandma Rosemarie", "Sunseth", "Günther")
    records += [make_record(f"person {name}", metadata={"people": [name]}) for name in people]
    written = Origin(captioned=True)
    collection.upsert(
        [
            *records,
            make_record("place", metadata={"city": "Lisbon", "country": "Portugal"}),
            make_record("tag", tags=("Snowboarding", "Hiking")),
            make_record("album", album="2019/Weddings"),
            make_record("hidden", tags=("Zanzibar",), hidden=True),
            make_record("model", caption="a giraffe", origin=written),
        ]
    )
    return collection


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("dgo", "dog"), ("a Dgo at the baech", "a dog at the beach"), ("doog", "dog")),
        *(("watrfall", "waterfall"), ("elephsnt", "elephant"), ("girafe", "giraffe")),
        *(("Jorgn", "jorgen"), ("snowboardign", "snowboarding"), ("Lizbon", "lisbon")),
        *(("egnarge elephsnt", "egnarge elephant"), ("gdo", None), ("orsse", None)),
        # A plural, a word that is being typed, words of another language, and no words.
        *(("dogs", None), ("hors", None), ("waterfal dog", None), ("Hund", None), ("dug", None)),
        *(("IMG_2041", None), ("", None), ("dog", None), ("elephants", None)),
        # A token of the model, its plural, and a record that searches do not find.
        *(("cat", None), ("books", None), ("zanzibra", None)),
    ],
)
def test_a_typing_error_is_corrected_by_the_words_of_the_collection(
    library: Collection, text: str, expected: str | None
) -> None:
    assert Corrections(library, Model()).did_you_mean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("grandm", "grandma"), ("Jorgn", "jorgen"), ("Rosem at the beach", None)),
        *(("rosem", "rosemarie"), ("snowboardin", "snowboarding"), ("Portu", "portugal")),
        *(("hikng", "hiking"), ("weddin", "weddings"), ("gunther", "günther")),
        # Whole words of the collection, of the model, of captions alone, and short beginnings.
        *(("Jorgen", None), ("cat", None), ("sunset", None), ("elephsnt", None), ("lis", None)),
        # Ordinary words that differ from a label in the first letter.
        *(("bedding", None), ("", None)),
    ],
)
def test_a_label_is_found_by_its_beginning_and_with_one_error(
    library: Collection, text: str, expected: str | None
) -> None:
    changed = {"Rosem at the beach": "rosemarie at the beach"}
    assert Corrections(library, Model()).with_labels(text) == changed.get(text, expected or text)


def test_the_more_frequent_of_two_neighbours_is_taken(
    collection: Collection, make_record: Callable[..., Record]
) -> None:
    captions = ["a boat", "the bato", "an old bato", "bato"]
    collection.upsert(make_record(f"r{n}", caption=text) for n, text in enumerate(captions))
    assert Corrections(collection, Model()).did_you_mean("baot") == "bato"


def test_the_label_that_is_looked_up_is_proposed_and_no_other_word(
    collection: Collection, make_record: Callable[..., Record]
) -> None:
    captions = [make_record(f"r{n}", caption="Jorge at a grand piano") for n in range(3)]
    named = make_record("named", tags=("Grandma",), metadata={"people": ["Jorgen"]})
    collection.upsert([*captions, named])
    corrections = Corrections(collection, Model())
    assert corrections.did_you_mean("Jorgn") == corrections.with_labels("Jorgn") == "jorgen"
    # A beginning is no error, and "grand" is not what the hits show.
    assert corrections.did_you_mean("grandm") is None
    assert corrections.with_labels("grandm") == "grandma"


def test_a_word_that_is_being_typed_is_not_corrected(
    collection: Collection, make_record: Callable[..., Record]
) -> None:
    captions = ["Grandma with her knitting", *["a grand piano"] * 3]
    collection.upsert(make_record(f"r{n}", caption=text) for n, text in enumerate(captions))
    corrections = Corrections(collection, Model())
    assert corrections.did_you_mean("grandm") is None
    assert corrections.did_you_mean("garnd") == "grand"


def test_long_words_and_more_than_a_few_are_not_looked_up(
    library: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []

    def similar_words(word: str) -> list[object]:
        looked_up.append(word)
        return []

    monkeypatch.setattr(library, "similar_words", similar_words)
    unknown = [f"x{letter}zzyx" for letter in "abcdefghijklmn"]
    text = " ".join(["q" * (MAX_LETTERS + 1), "w" * 4_096, *unknown, *unknown])
    corrections = Corrections(library, Model())
    assert corrections.did_you_mean(text) is None
    assert corrections.with_labels(text) == text
    assert looked_up == unknown[:MAX_WORDS]


@pytest.mark.parametrize("query", ["Jorgn", "jorgen", "Jorge"])
def test_hits_with_the_label_come_first(
    collection: Collection, make_record: Callable[..., Record], embedder: Any, query: str
) -> None:
    names = ("Anna", "Cate", "Jorgen", "Maria", "Zoe")
    same = embedder.direction(b"")
    collection.upsert(make_record(name, vector=same, tags=(name,)) for name in names)
    hits = SearchEngine(embedder, collection).search(query)
    assert [hit.id for hit in hits] == ["Jorgen", "Anna", "Cate", "Maria", "Zoe"]


def test_a_label_with_a_typing_error_is_removed_from_the_query_vector(
    collection: Collection, make_record: Callable[..., Record], embedder: Any
) -> None:
    collection.upsert(
        make_record(
            f"{name} {place}",
            vector=embedder.direction(place.encode()),
            metadata={"people": [name]},
        )
        for name in ("Anna", "Jorgen")
        for place in ("sunset", "sea")
    )
    for query in ("Jorgen at sunset", "Jorgn at sunset", "sunset with jorg"):
        hits = SearchEngine(embedder, collection).search(query)
        assert hits[0].id == "Jorgen sunset"
        assert hits[0].score == pytest.approx(1.0)

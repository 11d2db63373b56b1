"""Generated captions with the names and the place of their record."""

import re
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from coca.search.named_captions import named_caption
from coca.search.records import PEOPLE, PLACE, Origin, Record, metadata_texts

EXAMPLES: list[tuple[str, list[str], str]] = [
    # As many names as people that the caption begins with.
    ("a boy climbing on a rope.", ["Anna"], "Anna climbing on a rope."),
    ("an older woman in a hat is smiling.", ["Anna"], "Anna in a hat is smiling."),
    ("two little girls are playing.", ["Anna", "Mia"], "Anna and Mia are playing."),
    ("a woman and two boys swim.", ["Anna", "Ben", "Cem"], "Anna, Ben and Cem swim."),
    # Fewer or more people, others who are mentioned, words that refer to one of them.
    ("a boy climbing on a rope.", ["Anna", "Ben"], "Anna and Ben: a boy climbing on a rope."),
    ("two boys are playing.", ["Ben"], "Ben: two boys are playing."),
    ("a man in front of a crowd.", ["Ben"], "Ben: a man in front of a crowd."),
    ("a man in a hat and a woman walk.", ["Ben"], "Ben: a man in a hat and a woman walk."),
    ("a man rides his bike.", ["Anna"], "Anna: a man rides his bike."),
    ("a group of people sit.", ["Ben", "Cem"], "Ben and Cem: a group of people sit."),
    ("a dog and a boy are running.", ["Ben"], "Ben: a dog and a boy are running."),
    # "baby" describes an elephant, "soccer" a player.
    ("a baby elephant in the water.", ["Ben"], "Ben: a baby elephant in the water."),
    ("a soccer player kicks a ball.", ["Ben"], "Ben kicks a ball."),
    # Nobody, or too many names.
    ("a dog runs through the grass.", ["Anna"], "a dog runs through the grass."),
    ("a boy climbing.", list("ABCDEF"), "A, B, C and 3 more: a boy climbing."),
]  # fmt: skip


def named(caption: str, metadata: dict[str, Any]) -> str:
    people, places = metadata_texts(metadata, PEOPLE), metadata_texts(metadata, *PLACE)
    return named_caption(caption, people, places)


@pytest.mark.parametrize(("caption", "people", "expected"), EXAMPLES)
def test_names_take_the_place_of_people_or_precede_the_caption(
    caption: str, people: list[str], expected: str
) -> None:
    assert named(caption, {"people": people}) == expected


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"city": "Lisbon", "country": "Portugal"}, "a dog on a street, Lisbon."),
        ({"country": "Portugal"}, "a dog on a street, Portugal."),
        ({"city": ""}, "a dog on a street."),
        ({"city": 5, "people": "Anna"}, "a dog on a street."),
        ({"city": "street"}, "a dog on a street."),
    ],
)
def test_a_place_ends_the_caption(metadata: dict[str, Any], expected: str) -> None:
    assert named("a dog on a street.", metadata) == expected


@pytest.mark.parametrize("value", [None, 3, {"Anna": 1}, [], ["", " "], [4, None]])
def test_metadata_of_other_types_are_ignored(value: Any) -> None:
    assert named("a boy climbing.", {"people": value, "city": value}) == "a boy climbing."


def test_nothing_is_invented_and_no_name_is_lost() -> None:
    captions = [caption for caption, _, _ in EXAMPLES]
    names = ["Zoë", "Ole Ø", "O'Neil", "Yu"]
    for caption, count in product(captions, range(1, 5)):
        shown = named(caption, {"people": names[:count], "city": "Bonn"})
        assert shown.endswith(", Bonn.")
        rest = shown
        for name in names[:count]:
            assert shown.count(name) == ("dog runs" not in caption)
            rest = rest.replace(name, "")
        rest = re.sub(r"^[\s,]*(and\s)?[\s:]*", "", rest.replace(", Bonn", ""))
        assert caption.endswith(rest)


def test_hits_show_names_and_records_keep_the_words_of_the_model() -> None:
    record = Record(
        id="1",
        path="a.jpg",
        caption="a man on a beach.",
        metadata={"people": ["Ben"], "city": "Bonn"},
        vector=np.ones(1, np.float32),
        origin=Origin(captioned=True),
    )
    assert record.as_hit().caption == "Ben on a beach, Bonn."
    assert record.caption == "a man on a beach."
    given = replace(record, origin=Origin())
    assert given.as_hit().caption == "a man on a beach."

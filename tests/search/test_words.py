from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.search.records import Origin, Record
from coca.search.words import (
    FIELD_WEIGHTS,
    FIELDS,
    STOP_WORDS,
    matched_terms,
    query_terms,
    repeated_terms,
    search_terms,
    share,
    terms_of,
    text_match,
    texts_of,
    without_labels,
)

HARD = {
    "letters": "a" * 100_000,
    "flags": "🇩🇪" * 50_000,
    "accents": "e" + "\u0301\u0323" * 50_000,
    "joiners": "👩\u200d" * 50_000,
    "full stops": "a." * 50_000,
    "ideographs": "猫" * 100_000,
    "ligatures": "ﷺ" * 20_000,
    "words": "dog " * 25_000,
    "surrogate": "photo \udcff",
}


def record(path: str = "", *, model: bool = False, **values: Any) -> Record:
    vector = np.ones(2, np.float32)
    return Record(id="1", path=path, vector=vector, origin=Origin(captioned=model), **values)


def found(query: str, text: str) -> float:
    return share(query_terms(query), terms_of(text))


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Two DOGS running", ["two", "dog", "run"]),
        ("the dog's ball, the dog\u2019s ball, dogs'", ["dog", "ball", "dog", "ball", "dog"]),
        ("a human being", ["human", "be"]),
        ("It's to be", ["it", "to", "be"]),
        ("a dog\nthe\nto be", ["dog", "the", "to", "be"]),
        ("T-shirt 3.5", ["t", "shirt", "3.5"]),
        ("IMG_1234.jpg red_car.png", ["img", "1234", "jpg", "red", "car", "png"]),
        ("Straße STRASSE", ["strass", "strass"]),
        ("\uff46ull \ufb01sh", ["full", "fish"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("東京の猫", ["東", "京", "の", "猫"]),
        ("コーヒー 고양이", ["コーヒー", "고양이"]),
        ("हिन्दी बिल्ली", ["हिन्दी", "बिल्ली"]),
        ("a car🚗😀 👩‍🚀 🇩🇪", ["car", "🚗", "😀", "👩‍🚀", "🇩🇪"]),
        ("red\0car\ncar", ["red", "car", "car"]),
        ("Ein Kind mit Bällen", ["kind", "bällen", "de:kind", "de:ball"]),
        ("!?. \0 --", []),
    ],
)
def test_terms_of_a_text(text: str, terms: list[str]) -> None:
    assert terms_of(text) == terms


@pytest.mark.parametrize(
    ("query", "text", "part"),
    [
        ("Kind", "Zwei Kinder im Garten", 1),
        ("Kinder", "ein Kind spielt", 1),
        ("Bäume", "ein Baum auf dem Feld", 1),
        ("der Mann mit dem Hut", "Männer mit Hüten", 1),
        ("Hunde", "Hund", 1),
        ("pet", "Peter", 0),
        ("Peter", "a pet", 0),
        ("corn", "on the corner", 0),
        ("a man in a red hat", "man hat", 2 / 3),
        ("the the", "the red car", 0),
        ("the", "The", 1),
        ("red red cars car", "a car", 1 / 2),
        ("boat at the lake", "Uncle Bob's boat", 1 / 2),
        ("Will", "Anna\nWill", 1),
        ("", "a dog", 0),
    ],
)
def test_share_of_the_words_of_a_query(query: str, text: str, part: float) -> None:
    assert found(query, text) == pytest.approx(part)


@given(st.text(max_size=40))
def test_a_text_has_all_words_of_itself(text: str) -> None:
    one_line = " ".join(text.split())
    assert found(one_line, one_line) == bool(terms_of(one_line))


@given(st.lists(st.sampled_from([*STOP_WORDS.split(), "dog", "猫"]), max_size=8))
def test_stop_words_are_terms_only_alone(words: list[str]) -> None:
    terms = terms_of(" ".join(words))
    assert terms == ([word for word in words if word in ("dog", "猫")] or terms)
    assert len(terms) == len(words) or not set(terms) - {"dog", "猫"}


@pytest.mark.parametrize("text", HARD.values(), ids=HARD.keys())
def test_a_text_of_100_000_characters_has_all_words_of_itself(text: str) -> None:
    assert found(text, text) == 1


def test_texts_of_a_record_are_all_that_it_says() -> None:
    one = record(
        "/home/anna/2022 Lisbon/08/IMG_1234.JPG",
        caption="Uncle Bob's boat",
        tags=("Christmas", "red car"),
        album="/home/anna/2022 Lisbon/08",
        time=1_460_000_000,
        metadata={
            "title": "The lake",
            "captions": ["Uncle Bob's boat", "A boat"],
            "people": ["Anna", "Will"],
            "city": "Berlin",
            "country": "Germany",
            "camera": "NIKON D90",
            "licence": "https://creativecommons.org/licenses/by/2.0",
            "lens": "50mm",
            "iso": 100,
            "ocr_text": "Exit",
            "raw_file": "IMG_1234.NEF",
            "questions": [{"question": "What?"}],
        },
    )
    assert texts_of(one) == {
        "caption": "Uncle Bob's boat\nThe lake\nA boat",
        "tags": "Christmas\nred car",
        "people": "Anna\nWill",
        "place": "Berlin\nGermany",
        "album": "2022 Lisbon 08",
        "name": "IMG_1234.JPG",
        "metadata": "NIKON D90",
        "text": "Exit",
        "named": "Anna\nWill\nBerlin\nGermany\n2022 Lisbon 08\nLisbon\n2016",
        "tagged": "Christmas\nred car",
    }


def test_a_caption_of_a_model_is_a_field_of_its_own() -> None:
    assert texts_of(record(caption="a dog", model=True)) == {"generated": "a dog"}


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("a/DSC01234.NEF", "dsc01234"),
        ("a/DSC01234.NEF", "dsc 01234"),
        ("SunsetBeach.png", "sunset beach"),
        ("SunsetBeach.png", "SunsetBeach.png"),
        ("red-car_2.webp", "red car 2"),
        ("film.v2/holiday.mp4#t=12.5", "holiday"),
        ("https://host/a/boat.jpg?size=1.5", "boat"),
        ("why?/boat.jpg", "boat"),
    ],
)
def test_a_file_is_found_by_its_name(path: str, query: str) -> None:
    assert found(query, texts_of(record(path))["name"]) == 1


def test_the_query_of_a_url_is_not_part_of_the_name() -> None:
    assert found("size", texts_of(record("https://host/a/boat.jpg?size=1.5"))["name"]) == 0


def test_generated_captions_are_searched_only_if_all_captions_count() -> None:
    query = query_terms("dogs, a dog")
    assert search_terms(query, "given") == ["dog", "de:dog"]
    assert search_terms(query, "all") == ["dog", "de:dog", "model:dog", "model:de:dog"]


def test_terms_are_repeated_by_twice_the_weight_of_their_field() -> None:
    one = record("lake.jpg", caption="a dog", tags=("sea",), metadata={"ocr_text": "exit"})
    assert repeated_terms(one) == ["dog", "dog", "sea", "sea", "lake", "jpg"]
    assert repeated_terms(record(caption="a dog", model=True)) == ["model:dog"]
    assert repeated_terms(record()) == []
    assert matched_terms(one) == ["dog", "sea", "lake", "jpg", "exit", "tagged:sea"]
    assert all(2 * weight % 1 == 0 for weight in FIELD_WEIGHTS.values())
    assert set(FIELDS) == {*FIELD_WEIGHTS, "text", "named", "tagged", "seen"}


@pytest.mark.parametrize(
    ("query", "named", "tagged", "share"),
    [
        ("Anna", 1, 0, 1),
        ("Anna on the beach", 1, 0, 1 / 2),
        ("Miller", 1, 0, 1),
        ("tom miller in new york", 4, 0, 1),
        ("new shoes from York", 0, 0, 2 / 4),
        ("a tram in Portugal", 1, 0, 1 / 2),
        ("road trip at night", 2, 0, 2 / 3),
        ("a road in the mountains", 0, 0, 1 / 2),
        ("a tree in Kinder im Garten", 2, 0, 2 / 4),
        ("dog in 2016", 1, 0, 0),
        ("dog in 2017", 0, 0, 0),
        ("red", 0, 1, 1),
        ("red car", 0, 1 / 2, 1 / 2),
        ("Anna in a red car", 1, 1 / 3, 2 / 3),
        ("one two three four five", 0, 0, 1),
        ("to be", 0, 0, 0),
    ],
)
def test_a_query_names_the_labels_of_a_record(
    query: str, named: int, tagged: float, share: float
) -> None:
    one = record(
        tags=("red", "one two three four five"),
        album="/photos/2022 Road Trip",
        time=1_460_000_000,
        metadata={
            "people": ["Anna", "Tom Miller"],
            "city": "New York",
            "country": ["Portugal", "Kinder im Garten"],
        },
    )
    found = text_match(query_terms(query), matched_terms(one))
    assert found == pytest.approx(named + tagged**2 + share**4)


@pytest.mark.parametrize(
    ("query", "tenths"),
    [
        *(("dog", 9), ("a dog", 9), ("Dogs", 9), ("the jack russell", 4), ("Jack Russells", 4)),
        *(("hot dog", 0), ("dog in snow", 0), ("cat", 0), ("animal", 0), ("jack", 0), ("", 0)),
        *(("9", 0), ("dog 9", 0), ("x", 0), ("the", 0), ("bird", 10), ("birds", 10)),
    ],
)
def test_a_query_that_is_a_noun_matches_what_a_classifier_sees(query: str, tenths: int) -> None:
    seen = {"dog": 97, "Jack Russell": 40, "animal": 9, "bird": 100, "birds": 20}
    bad = {"cat": "high", "x": True, "the": 90, "": 90, "9": 90, "y": 400, "z": 0.5}
    one = record(metadata={"looks_like": seen | bad})
    assert text_match(query_terms(query), matched_terms(one)) == pytest.approx(4 * tenths / 10)
    other = record(metadata={"looks_like": "a dog"})
    assert text_match(query_terms(query), matched_terms(other)) == 0


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Anna with a dog", "dog"),
        ("a tram in München", "tram"),
        ("a tree in Kinder im Garten", "tree"),
        ("dog in 2016 on the grass", "dog in on the grass"),
        ("Tom's dog", "dog"),
        ("Anna", "Anna"),
        ("a dog", "a dog"),
    ],
)
def test_the_labels_that_a_text_names_are_left_out(text: str, left: str) -> None:
    labels = {f"named:{label}" for label in ("anna", "münchen", "kinder garten", "2016", "tom")}
    assert without_labels(text, labels) == left


def test_the_date_of_a_file_is_not_a_year_that_a_query_names() -> None:
    dated = Record(
        id="1",
        path="",
        vector=np.ones(2, np.float32),
        time=1_460_000_000,
        origin=Origin(dated="file"),
    )
    assert text_match(query_terms("dog in 2016"), matched_terms(dated)) == 0
    assert text_match(query_terms("2016"), matched_terms(record(time=2**62))) == 0

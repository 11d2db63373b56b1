from typing import Any

import pytest

from coca.search.query.reasons import reason_of
from coca.search.records import Hit


def hit(*, caption: str = "", parts: dict[str, float] | None = None, **values: Any) -> Hit:
    found: dict[str, Any] = {
        "id": "1",
        "score": 0.1,
        "path": "a/IMG_1.jpg",
        "metadata": {},
        "bm25": 2.0,
    }
    shown = {"image": 0.1, "caption": 0.0, "words": 0.1} if parts is None else parts
    source = "given" if caption else ""
    return Hit(**found | {"caption": caption, "parts": shown, "caption_source": source} | values)


PEOPLE = {"people": ["Anna Schmidt"], "city": "Lisbon", "ocr_text": "Exit to the street"}


@pytest.mark.parametrize(
    ("query", "found", "reason"),
    [
        ("a dog", hit(), "looks like"),
        ("Oma", hit(tags=("Oma",)), "tag: Oma"),
        ("Anna with a dog", hit(metadata=PEOPLE), "person: Anna"),
        ("Anna Schmidt", hit(metadata=PEOPLE), "person: Anna Schmidt"),
        ("Lisbon tram", hit(metadata=PEOPLE), "place: Lisbon"),
        ("road trip beach", hit(album="/photos/2022 Road Trip"), "album: Road Trip"),
        ("dog in 2016", hit(time=1_460_000_000, date_source="taken"), "year: 2016"),
        ("puppies", hit(caption="a dog", caption_score=0.7), "caption"),
        ("puppies", hit(caption="a dog", caption_score=0.7, bm25=None), "caption"),
        ("puppies", hit(caption="a dog", caption_score=0.65), "caption"),
        ("puppies", hit(caption="a car", caption_score=0.6), "looks like"),
        ("knitting", hit(caption="Grandma with her knitting"), "caption"),
        ("Exit", hit(metadata=PEOPLE), "text in image"),
        ("IMG_1", hit(), "file name"),
        ("a dog", hit(caption="Our old house"), "looks like"),
    ],
)
def test_a_hit_has_one_reason(query: str, found: Hit, reason: str) -> None:
    assert reason_of(found, query, 0.65) == reason


def test_a_caption_of_a_model_is_not_a_reason() -> None:
    made = hit(caption="a dog", caption_source="model")
    assert reason_of(made, "a dog", 0.65) == "looks like"

"""Filters of photos as people type them: dates, places and distances."""

import math
from collections.abc import Callable
from datetime import date, datetime
from itertools import product
from typing import Any

import pytest

from coca.core.errors import ArgumentError
from coca.search.ingest.photo_metadata import Annotation, with_place
from coca.search.photo_filter import (
    EARTH_KM,
    find_period,
    find_place,
    gazetteer,
    has_gazetteer,
    near,
    parse_distance,
    parse_period,
)
from coca.search.records import Record
from coca.search.search_options import PhotoFilter
from coca.search.store import Collection

TODAY = date(2026, 11, 28)
needs_places = pytest.mark.skipif(not has_gazetteer(), reason="the extra `places` is missing")


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2021", "2021-01-01", "2021-12-31"),
        ("2021-05", "2021-05-01", "2021-05-31"),
        ("2024-2-29", "2024-02-29", "2024-02-29"),
        ("20240601", "2024-06-01", "2024-06-01"),
        ("31.12.2020", "2020-12-31", "2020-12-31"),
        ("May 2021", "2021-05-01", "2021-05-31"),
        ("Mai 2021", "2021-05-01", "2021-05-31"),
        ("sept. 2021", "2021-09-01", "2021-09-30"),
        ("3 March 2021", "2021-03-03", "2021-03-03"),
        ("3. März 2021", "2021-03-03", "2021-03-03"),
        ("March 3rd, 2021", "2021-03-03", "2021-03-03"),
        (" Summer 2019 ", "2019-06-01", "2019-08-31"),
        ("winter 2019", "2019-12-01", "2020-02-29"),
        ("last summer", "2026-06-01", "2026-08-31"),
        ("last winter", "2025-12-01", "2026-02-28"),
        ("today", "2026-11-28", "2026-11-28"),
        ("yesterday", "2026-11-27", "2026-11-27"),
        ("this week", "2026-11-23", "2026-11-29"),
        ("last week", "2026-11-16", "2026-11-22"),
        ("last month", "2026-10-01", "2026-10-31"),
        ("11 months ago", "2025-12-01", "2025-12-31"),
        ("last year", "2025-01-01", "2025-12-31"),
        ("last 3 months", "2026-08-01", "2026-11-28"),
    ],
)
def test_a_date_is_a_period(text: str, first: str, last: str) -> None:
    begin, end = parse_period(text, today=TODAY)
    assert begin == datetime.fromisoformat(first)
    assert end == datetime.fromisoformat(f"{last}T23:59:59")


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("beach last summer", "last summer"),
        ("summer 2019 dog", "summer 2019"),
        ("tree on 24 December 2019", "24 December 2019"),
        ("invoice 2024", ""),
        ("marathon 2019", ""),
        ("May 2019 or 3 June 2020", "3 June 2020"),
        ("May 2019 June 2020", "May 2019"),
        ("march of the penguins in summer", ""),
        ("", ""),
    ],
)
def test_a_date_is_found_in_a_text(text: str, period: str) -> None:
    assert find_period(text) == period


def test_a_time_is_a_moment() -> None:
    moment = datetime.fromisoformat("2024-06-01T18:30:00+02:00")
    assert parse_period("2024-06-01T18:30:00+02:00") == (moment, moment)


@pytest.mark.parametrize(
    "text", ["", "20", "2021-13", "31 Feb 2020", "Foo 2020", "99 summers", "9999 years ago", "9999"]
)
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="a date must be a day, month, season, year or time"):
        parse_period(text, today=TODAY)


def test_a_distance_has_a_unit() -> None:
    assert [parse_distance(text) for text in ("20km", "500 m", "10mi")] == [20.0, 0.5, 16.09344]
    for text in ("20", "0km", "-1km", "30000km", "far"):
        with pytest.raises(ArgumentError, match="a distance must be above 0"):
            parse_distance(text)


def haversine(one: tuple[float, float], other: tuple[float, float]) -> float:
    (south, west), (north, east) = (tuple(map(math.radians, point)) for point in (one, other))
    chord = math.sin((north - south) / 2) ** 2
    chord += math.cos(south) * math.cos(north) * math.sin((east - west) / 2) ** 2
    return 2 * EARTH_KM * math.asin(math.sqrt(chord))


def test_photos_near_a_point_are_those_within_the_distance(
    collection: Collection, make_record: Callable[..., Record]
) -> None:
    centers = [(38.7, -9.1, 20.0), (-65.0, 179.95, 100.0), (0.0, -180.0, 5.0)]
    points: dict[str, tuple[float, float]] = {}
    for latitude, longitude, radius in centers:
        # In all directions, just inside and outside of what may be near.
        for step, fraction in product(range(60), (0.3, 0.925, 1.075)):
            angle, far = step * math.pi / 30, math.degrees(fraction * radius / EARTH_KM)
            east = longitude + far * math.cos(angle) / math.cos(math.radians(latitude))
            point = (latitude + far * math.sin(angle), (east + 180) % 360 - 180)
            points[f"{len(points)}"] = point
    collection.upsert(
        make_record(name, metadata={"latitude": point[0], "longitude": point[1]})
        for name, point in points.items()
    )
    collection.upsert([make_record("nowhere")])
    for latitude, longitude, radius in centers:
        kept = set(collection.ids(near(latitude, longitude, within_km=radius)))
        apart = {name: haversine((latitude, longitude), at) for name, at in points.items()}
        assert {name for name, km in apart.items() if km < 0.93 * radius} <= kept
        assert kept <= {name for name, km in apart.items() if km < 1.07 * radius}


def test_coordinates_are_a_place() -> None:
    assert find_place(" 38.72, -9.14") == (38.72, -9.14)
    with pytest.raises(ArgumentError, match="a latitude from -90 to 90"):
        find_place("91,0")


@needs_places
@pytest.mark.parametrize(
    ("text", "city", "country"),
    [
        ("Lisbon", "Lisbon", "Portugal"),
        ("lissabon", "Lisbon", "Portugal"),
        ("München", "Munich", "Germany"),
        ("Sao Paulo", "São Paulo", "Brazil"),
        ("London, Canada", "London", "Canada"),
        ("Paris, us", "Paris", "United States"),
        ("Paris, USA", "Paris", "United States"),
        ("London, UK", "London", "United Kingdom"),
        ("Washington, D.C.", "Washington", "United States"),
    ],
)
def test_a_city_is_found_by_its_names(text: str, city: str, country: str) -> None:
    found = gazetteer().find(text)
    assert (found.city, found.country) == (city, country)


@needs_places
def test_a_state_of_the_us_tells_its_cities_apart() -> None:
    maine, oregon = gazetteer().find("Portland, Maine"), gazetteer().find("portland, or")
    assert gazetteer().find("Portland, ME") == maine
    assert gazetteer().find("Portland, Oregon") == oregon
    # In degrees: the states are at both oceans.
    assert maine.longitude - oregon.longitude > 50


@needs_places
@pytest.mark.parametrize("text", ["Nowhereville", " ", ",", "Lisbon, Japan"])
def test_an_unknown_city_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="there is no city"):
        gazetteer().find(text)


@needs_places
def test_photos_have_the_nearest_city_unless_they_name_one() -> None:
    at = {"latitude": 38.7223, "longitude": -9.1393}
    found = with_place(Annotation(metadata=at)).metadata
    assert (found["city"], found["country"]) == ("Lisbon", "Portugal")
    named = Annotation(metadata={**at, "city": "Lisboa"})
    assert with_place(named) == named
    ocean = Annotation(metadata={"latitude": 0.0, "longitude": -30.0})
    assert with_place(ocean) == ocean


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"since": "x"}, "a date must be"),
        ({"since": "2021", "until": "2020"}, "the end comes first"),
        ({"near": "1,2", "within": "far"}, "a distance must be"),
        ({"within": "5km"}, "has no near"),
    ],
)
def test_a_filter_is_checked_when_it_is_made(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ArgumentError, match=fault):
        PhotoFilter(**fields)


def test_a_filter_keeps_what_was_taken_then_and_there(
    collection: Collection, make_record: Callable[..., Record]
) -> None:
    here = {"latitude": 38.72, "longitude": -9.14}
    times = {"a": 1_561_000_000, "b": 1_581_000_000, "c": 0}
    collection.upsert(make_record(name, time=time, metadata=here) for name, time in times.items())

    def kept(**fields: str) -> list[str]:
        (filter,) = PhotoFilter(**fields).conditions()
        return sorted(collection.ids(filter))

    assert kept(during="summer 2019") == ["a"]
    assert kept(since="2019", until="2019") == ["a"]
    assert kept(since="2019") == ["a", "b"]
    assert kept(near="38.7,-9.1") == ["a", "b", "c"]
    assert kept(near="40,-9.1") == []
    assert PhotoFilter().conditions() == []

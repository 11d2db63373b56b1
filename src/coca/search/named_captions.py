"""Names and places in generated captions: of "two boys playing", "Ben and Cem playing, Bonn".

A caption is stored as the model wrote it, and completed where it is shown, so it follows each edit
of the names. Nothing is invented: names and place are those of the record, and every other word is
the model's. Names take the place of the people that a caption begins with where it is clear who
they are: there are as many, nobody else is mentioned, and no word such as "his" refers to them.
Else they precede a caption of people with a colon. A caption without people gets no names.
"""

import re
from collections.abc import Sequence

_ONE = (
    "adult|athlete|baby|biker|boy|child|climber|cyclist|girl|guy|hiker|kid|lady|man|person|player|"
    "rider|runner|skateboarder|skier|snowboarder|surfer|swimmer|teenager|toddler|woman|worker"
)
_MANY = (
    "adults|athletes|babies|bikers|boys|children|climbers|cyclists|friends|girls|guys|hikers|kids|"
    "ladies|men|people|persons|players|riders|runners|skateboarders|skiers|snowboarders|surfers|"
    "swimmers|teenagers|toddlers|women|workers"
)
_GROUPS = "couple|crowd|family|someone|team"
_COUNTS = {"two": 2, "three": 3, "four": 4}

_DESCRIBED = r"(?:(?!(?:a|an|and|couple|crowd|family|group|of|team|the)\b)[\w'-]+ ){0,2}?"
_PART = (
    rf"(?:(?:a|an|another|the) {_DESCRIBED}(?:{_ONE})"
    rf"|(?:{'|'.join(_COUNTS)}) {_DESCRIBED}(?:{_MANY}))\b(?!['-])"
)
_SUBJECT = re.compile(rf"{_PART}(?: and {_PART})*", re.IGNORECASE)
_PEOPLE = re.compile(rf"\b(?:{_ONE}|{_MANY}|{_GROUPS})\b", re.IGNORECASE)
_REFERS = re.compile(
    r"\b(?:he|she|him|her|his|hers|himself|herself|another|others?|one)\b", re.IGNORECASE
)
_GOES_ON = re.compile(
    r"\s*$|\s*[.,]|\s+(?:is|are|in|on|at|with|without|under|near|by|from|and|who|that|[a-z]+ing|"
    r"[a-z]+s|climb|dance|dive|eat|hold|jump|lie|look|play|pose|race|ride|run|sit|ski|smile|stand|"
    r"surf|swim|talk|wade|wait|walk|watch|wear)\b"
)
"""What follows people, and not what they describe, as in "a baby elephant"."""

_MOST_NAMES = 4
"""More names are cut to the first three and a count."""


def named_caption(caption: str, people: Sequence[str], places: Sequence[str]) -> str:
    """Complete a generated caption with the people and the place of its record.

    Args:
        caption: As the model wrote it.
        people: Names of people.
        places: City, then country; the first one is added.
    """
    if not caption:
        return caption
    names = _lines(people)
    text = _with_names(caption, names) if names and _PEOPLE.search(caption) else caption
    place = next(iter(_lines(places)), "")
    if not place or re.search(rf"\b{re.escape(place)}\b", caption, re.IGNORECASE):
        return text
    end = "." if text.endswith(".") else ""
    return f"{text.removesuffix('.').rstrip()}, {place}{end}"


def _with_names(caption: str, names: Sequence[str]) -> str:
    subject = _SUBJECT.match(caption)
    if subject is not None and len(names) <= _MOST_NAMES:
        rest = caption[subject.end() :]
        mentioned = _PEOPLE.search(rest) or _REFERS.search(rest)
        if _count(subject[0]) == len(names) and not mentioned and _GOES_ON.match(rest):
            return _joined(names) + rest
    return f"{_joined(names)}: {caption}"


def _count(subject: str) -> int:
    """Count the people of a subject such as "a woman and two boys"."""
    first_words = (part.split(" ", 1)[0].lower() for part in subject.split(" and "))
    return sum(_COUNTS.get(word, 1) for word in first_words)


def _joined(names: Sequence[str]) -> str:
    if len(names) > _MOST_NAMES:
        names = [*names[: _MOST_NAMES - 1], f"{len(names) - _MOST_NAMES + 1} more"]
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _lines(texts: Sequence[str]) -> list[str]:
    """Return each text once, on one line, without empty texts."""
    return list(dict.fromkeys(filter(None, (" ".join(text.split()) for text in texts))))

"""Words of records and of typed queries: the one analysis of both, and the texts of a record.

A text is split into words by the Unicode standard (UAX #29), in form NFKC and case-folded. Chinese
and hiragana characters and emoji are words of their own. Stop words are removed unless a line has
no others ("to be"). Then words become terms: their stems by the Snowball stemmer for English.

A line with more German stop words and umlauts than English stop words is German, and has the German
stems of its words as well, with a mark. A query is too short to have a language, so each of its
words is looked up as both terms, and counts once in `share`. MRR of 3,000 captions of Multi30k for
another caption of the same photo: English 0.418, as with the English stemmer alone, and German
0.261 instead of 0.252. One stemmer after the other reaches 0.421 and 0.261, but "corn" finds each
"corner", "Peter" each "pet", and "star" each "stare".
"""

import json
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache

from coca.search.records import (
    CAPTIONS,
    OCR_TEXT,
    PEOPLE,
    PLACE,
    RAW_FILE,
    Hit,
    Record,
    metadata_texts,
    nouns_of,
    text_inside,
)
from coca.search.search_options import CaptionChoice

STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
"""English stop words: those of the analyzers of Lucene and Milvus."""
GERMAN_STOP_WORDS = (
    "als am an auf aus bei beim das dem den der des die durch ein eine einem einen einer eines er "
    "es für ich ihr im in ist mit nach neben nicht ohne sein seine sich sie sind und unter vom von "
    "vor was wird zu zum zur über"
)
"""German stop words, without those that are English words of captions: "hat", "man", "war"."""

FIELD_WEIGHTS: Mapping[str, float] = {
    "caption": 1.0,
    "generated": 0.5,
    "tags": 1.0,
    "people": 1.0,
    "place": 1.0,
    "album": 0.5,
    "name": 0.5,
    "metadata": 0.5,
}
"""Weight of an occurrence of a term in each field of a record that BM25 counts; multiples of a
half."""
GENERATED, TEXT, NAMED, TAGGED = "generated", "text", "named", "tagged"
"""Fields of captions by a model, which count if a query wants them; of the text inside the image,
which BM25 does not count, as it is low where few images have text and in long texts; and of whole
labels, see `text_match`."""
SEEN = "seen"
"""Field of what a classifier sees in the image. Its terms are whole nouns, each as many times as
its probability has tenths."""
MARKS = {GENERATED: "model:", TEXT: "text:", NAMED: "named:", TAGGED: "tagged:", SEEN: "seen:"}
"""Marks of the terms of these fields, which are terms of their own to BM25."""
LABELS = ("tags", "people", "place", "album")
"""Fields of labels."""
TEXT_FIELDS = ("caption", *LABELS, "name", TEXT)
"""Fields of which the share of a query's words counts as well. Of 40 queries for a tag, person,
city, album or file of 1,000 photos, the first hit is right for 21 with BM25, and for 40 with the
share, too: BM25 of a word that 30 photos have is too low to precede the nearest image.
(`benchmarks/labels.py`)"""
FIELDS = (*FIELD_WEIGHTS, TEXT, NAMED, TAGGED, SEEN)
"""Fields of the texts of a record; positions in this order are stored."""
MOST_OCCURRENCES, MOST_LENGTH = 255, 65_535
SEEN_WEIGHT = 4.0
"""Weight of the probability of a noun in `text_match`, so that one of 0.5 and more precedes a tag
alone: where a hundredth of 600 photos have a wrong tag, 0.84 of the first five photos for a noun
are right, and 0.64 with 2.5 (`benchmarks/noun_search.py`)."""
MAX_LABEL_WORDS = 4
"""Words of the longest label that a query can name."""

_WORD = r"\b[\w\p{Emoji_Presentation}\p{Extended_Pictographic}].*?\b"
"""A segment between word boundaries that begins with a letter, digit or emoji."""
_JOINED = re.compile(r"[_:]|(?<=[^\W\d])\.(?=[^\W\d])")
"""Characters that join words by the standard, as in `red_car.jpg`; no term but a marked one has a
colon."""
RULES = 3
"""Version of this module: raise it when a record gets other terms, or a field another weight.
`coca collection check --repair` writes the words of former versions again. Releases of `regex`, of
PyStemmer and of Unicode change few words, and none of the version."""
_MAX_WORD = 256
"""A longer run without a space is cut, as in Lucene: boundaries and NFKC take quadratic time."""
_GERMAN = "de:"
"""Mark of German stems."""
_PARTS = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}(?![a-z])|\d{3,}")
"""Parts of names such as `DSC01234` and `SunsetBeach`; shorter ones are those of hashes."""
_FRAME = re.compile(r"#t=[\d.]+$")
_NOT_OTHER = frozenset(("title", CAPTIONS, PEOPLE, *PLACE, "lens", OCR_TEXT, RAW_FILE))
"""Keys of the metadata that are not in the field `metadata`: texts of other fields, and numbers."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STOP = frozenset(STOP_WORDS.split())
_GERMAN_STOP = frozenset(GERMAN_STOP_WORDS.split())
_UMLAUTS = frozenset("äöü")

_thread = threading.local()
"""Has the stemmers of each thread, as a stemmer is not thread-safe."""


def terms_of(text: str) -> list[str]:
    """Return the terms of a text of a record, line by line, without stop words."""
    terms: list[str] = []
    for words in _lines(text):
        german = _is_german(words)
        words = _content(words, german)
        terms += _stems("english", words)
        if german:
            terms += _stems("german", words)
    return terms


def stems(words: Sequence[str]) -> list[str]:
    """Return the terms of English words, each in lower case and without signs."""
    return _stems("english", words)


@lru_cache(maxsize=16)
def query_terms(text: str) -> tuple[tuple[str, str], ...]:
    """Return the English and the German term of each word of a query: unique, in order.

    Stop words are left out unless there are no others.
    """
    words = [word for line in _lines(text) for word in line]
    words = _content(words, _is_german(words))
    pairs: dict[str, str] = {}
    for english, german in zip(_stems("english", words), _stems("german", words), strict=True):
        pairs.setdefault(english, german)
    return tuple(pairs.items())


def is_stop_word(word: str) -> bool:
    """Return whether a word is an English or a German stop word."""
    return word.casefold() in _STOP or word.casefold() in _GERMAN_STOP


def share(query: Sequence[tuple[str, str]], terms: Collection[str]) -> float:
    """Compute the share of the words of a query that have a term among `terms`; 0 to 1.

    Args:
        query: Terms of the query, see `query_terms`.
        terms: Terms of a text, see `terms_of`.
    """
    known = frozenset(terms)
    return sum(not known.isdisjoint(word) for word in query) / max(len(query), 1)


def label_keys(
    query: Sequence[tuple[str, str]], fields: Sequence[str] = (NAMED, TAGGED)
) -> dict[str, tuple[int, ...]]:
    """Return the terms of the labels that a query may name, with the positions of their words.

    Args:
        query: Terms of the query, see `query_terms`.
        fields: `NAMED` for people, places, albums and years, and `TAGGED` for tags.
    """
    places = [place for place, (english, _) in enumerate(query) if english not in _GERMAN_STOP]
    spans = [
        tuple(places[start:stop])
        for start in range(len(places))
        for stop in range(start + 1, min(start + MAX_LABEL_WORDS, len(places)) + 1)
    ]
    return {
        mark + " ".join(query[place][0] for place in span): span
        for span in spans
        for mark in map(MARKS.__getitem__, fields)
    }


def noun_key(query: Sequence[tuple[str, str]]) -> str:
    """Return the term of the noun that a query is, in `SEEN`; empty if it has more words."""
    words = [english for english, _ in query if english not in _GERMAN_STOP]
    return MARKS[SEEN] + " ".join(words) if 0 < len(words) <= MAX_LABEL_WORDS else ""


def seen_terms(query: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the terms of `matched_terms` of the noun that a query is, with their tenths."""
    key = noun_key(query)
    return {f"{key} {tenths}": tenths for tenths in range(1, 11)} if key else {}


def without_labels(text: str, labels: Collection[str]) -> str:
    """Remove the labels that a text names, and stop words at its ends: "dog" of "Anna with a dog".

    A text of which nothing is left stays as it is.

    Args:
        text: Text as typed.
        labels: Labels that records have, of `label_keys`.
    """
    query = query_terms(text)
    spans = [span for key, span in label_keys(query, (NAMED,)).items() if key in labels]
    named = {query[place][0] for span in spans for place in span}
    words = [
        word
        for word in text.split()
        if named.isdisjoint(english for english, _ in query_terms(word))
    ]
    while words and is_stop_word(words[0]):
        del words[0]
    while words and is_stop_word(words[-1]):
        del words[-1]
    return " ".join(words) if named and words else text


def text_match(
    query: Sequence[tuple[str, str]],
    terms: Collection[str],
    *,
    written: Callable[[str], str] = str,
) -> float:
    """Compute the match of a query with labels and texts, l + s^4 + 4 n.

    l is the number of the query's words that name a person, place, album or year of the record,
    plus the square of the share of its words that are a tag. "Anna on the beach" names Anna, whom
    no image model knows: her photos come first, ordered by the beach. A tag is mostly a word that
    the model knows as well: with the tag "red", a rose is not the first hit for "red car".

    s is the share of the query's words in `TEXT_FIELDS`. Its fourth power leaves out what shares
    only some words: a page with the words "oak table" came before photos of other tables.

    n is the probability of the noun that the query is, in tenths, if a classifier sees it in the
    image. A tag may be wrong, or say what is hardly seen, so that a probable noun counts for more.

    Args:
        query: Terms of the query, see `query_terms`.
        terms: Terms of a record, see `matched_terms`.
        written: How `terms` writes a term of `matched_terms`.
    """
    keys, words, nouns = _written(tuple(query), written)
    named, tagged = set[int](), set[int]()
    for key, is_named, span in keys:
        if key in terms:
            (named if is_named else tagged).update(span)
    labels = len(named) + (len(tagged) / max(len(query), 1)) ** 2
    seen = max((nouns[term] for term in nouns.keys() & terms), default=0)
    return labels + share(words, terms) ** 4 + SEEN_WEIGHT * seen / 10


@lru_cache(16)
def _written(
    query: tuple[tuple[str, str], ...], written: Callable[[str], str]
) -> tuple[list[tuple[str, bool, tuple[int, ...]]], list[tuple[str, str]], dict[str, int]]:
    """Write the labels, terms and noun of a query once for all records that it is compared with."""
    keys = [
        (written(key), key.startswith(MARKS[NAMED]), span)
        for key, span in label_keys(query).items()
    ]
    nouns = {written(term): tenths for term, tenths in seen_terms(query).items()}
    return keys, [(written(english), written(german)) for english, german in query], nouns


def search_terms(query: Sequence[tuple[str, str]], captions: CaptionChoice) -> list[str]:
    """Return the terms by which BM25 finds records, each once.

    Args:
        query: Terms of the query, see `query_terms`.
        captions: Captions that count; see `Ranking.captions`.
    """
    terms = list(dict.fromkeys(term for word in query for term in word))
    return terms + [MARKS[GENERATED] + term for term in terms if captions == "all"]


def texts_of(record: Record | Hit) -> dict[str, str]:
    """Return the texts of a record by `FIELDS`, without empty ones; each value is a line."""
    metadata = record.metadata
    caption = GENERATED if record.caption_source == "model" else "caption"
    fields: dict[str, list[str]] = {name: [] for name in FIELDS}
    fields[caption] += [record.caption]
    fields["caption"] += metadata_texts(metadata, "title", CAPTIONS)
    fields["tags"] += record.tags
    fields["people"] += metadata_texts(metadata, PEOPLE)
    fields["place"] += metadata_texts(metadata, *PLACE)
    fields["album"] += [_with_parts(_folder_name(record.album))]
    fields["name"] += [_with_parts(_file_name(record.path))]
    others = [key for key in metadata if key not in _NOT_OTHER]
    fields["metadata"] += [it for it in metadata_texts(metadata, *others) if "://" not in it]
    fields[TEXT] += [text_inside(metadata)]
    people = fields["people"]
    fields[NAMED] += [*people, *(word for person in people for word in person.split())]
    fields[NAMED] += [*fields["place"], *_album_names(_folder_name(record.album))]
    fields[NAMED] += _year(record)
    fields[TAGGED] += record.tags
    fields[SEEN] += [f"{noun} {percent // 10}" for noun, percent in nouns_of(metadata).items()]
    texts = {name: "\n".join(dict.fromkeys(lines)).strip() for name, lines in fields.items()}
    return {name: text for name, text in texts.items() if text}


def matched_terms(record: Record) -> list[str]:
    """Return the terms of a record that `text_match` reads, each once."""
    texts = texts_of(record)
    plain = [term for name in TEXT_FIELDS for term in terms_of(texts.get(name, ""))]
    fields = field_terms({name: texts.get(name, "") for name in (NAMED, TAGGED, SEEN)})
    seen = [f"{term} {tenths}" for term, tenths in Counter(fields[SEEN]).items()]
    return list(dict.fromkeys((*plain, *fields[NAMED], *fields[TAGGED], *seen)))


def field_terms(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the terms of each field of a record, in the order of `FIELDS`, with `MARKS`.

    A term of `NAMED` and `TAGGED` is a whole label: the stems of its words with spaces between.
    """
    split = {NAMED: _whole_labels, TAGGED: _whole_labels, SEEN: _nouns_seen}
    return {
        name: [MARKS.get(name, "") + term for term in split.get(name, terms_of)(texts[name])]
        for name in FIELDS
        if name in texts
    }


@dataclass(frozen=True, slots=True)
class Words:
    """Words of a record, as its postings have them."""

    length: int
    """Weighted number of its terms, in halves of a term."""
    terms: Sequence[str]
    """Terms, once for each field that has them."""
    codes: Sequence[int]
    """Number of the field times 256, plus the occurrences in it, of each of `terms`."""


def analyzed(texts: Mapping[str, str]) -> Words:
    """Return the words of the texts of a record, see `texts_of`."""
    # Two lists, and not one for each term: the garbage collector visits each.
    weighted, terms, codes = 0.0, list[str](), list[int]()
    for field, found in field_terms(texts).items():
        weighted += FIELD_WEIGHTS.get(field, 0) * len(found)
        number, counts = FIELDS.index(field) << 8, Counter(found)
        terms += counts
        codes += [number | min(count, MOST_OCCURRENCES) for count in counts.values()]
    return Words(min(round(2 * weighted), MOST_LENGTH), terms, codes)


def words_to(words: Words) -> bytes:
    """Return words as JSON."""
    by_term = dict[str, list[int]]()
    for term, code in zip(words.terms, words.codes, strict=True):
        by_term.setdefault(term, []).append(code)
    return json.dumps([words.length, by_term], ensure_ascii=False).encode()


def words_from(stored: bytes) -> Words:
    """Read what `words_to` returned."""
    length, by_term = json.loads(stored)
    terms = [term for term, codes in by_term.items() for _ in codes]
    return Words(length, terms, [code for codes in by_term.values() for code in codes])


def repeated_terms(record: Record) -> list[str]:
    """Return the terms of all fields that BM25 counts.

    A term is repeated twice its field's weight, so that plain BM25 with twice the `k1` counts it by
    its weight.
    """
    fields = field_terms(texts_of(record)).items()
    times = {name: round(2 * weight) for name, weight in FIELD_WEIGHTS.items()}
    return [term for name, terms in fields for term in terms for _ in range(times.get(name, 0))]


def _lines(text: str) -> Iterator[list[str]]:
    """Split each line of a text into words, in form NFKC and case-folded."""
    find = _word_finder()
    # Half of a surrogate pair, as in a damaged file name, can be stored nowhere.
    for line in text.encode("utf-8", "replace").decode().splitlines():
        parts = [line]
        if len(line) > _MAX_WORD:
            runs = line.split()
            parts = [
                run[at : at + _MAX_WORD] for run in runs for at in range(0, len(run), _MAX_WORD)
            ]
        words: list[str] = []
        for part in parts:
            folded = unicodedata.normalize("NFKC", part).casefold()
            folded = folded.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
            words += [word.removesuffix("'s") for word in find(_JOINED.sub(" ", folded))]
        if words:
            yield words


def _whole_labels(text: str) -> list[str]:
    """Return the stems of each line of a text, joined, as `label_keys` joins those of a query."""
    labels = list[str]()
    for words in _lines(text):
        content = [word for word in _content(words, _is_german(words)) if word not in _GERMAN_STOP]
        labels.append(" ".join(dict.fromkeys(_stems("english", content))))
    return list(filter(None, dict.fromkeys(labels)))


def _nouns_seen(text: str) -> list[str]:
    """Return each noun of the lines of a text as many times as the number behind it."""
    counts: dict[str, int] = {}
    for label in _whole_labels(text):
        noun, _, count = label.rpartition(" ")
        counts[noun] = max(int(count), counts.get(noun, 0))
    return [noun for noun, count in counts.items() if noun for _ in range(count)]


def _is_german(words: Sequence[str]) -> bool:
    """Return whether there are more German stop words and umlauts than English stop words."""
    german = sum(word in _GERMAN_STOP or not _UMLAUTS.isdisjoint(word) for word in words)
    return german > sum(word in _STOP for word in words)


def _content(words: list[str], german: bool) -> list[str]:
    """Remove stop words of a language unless there are no other words."""
    stop = _GERMAN_STOP if german else _STOP
    return [word for word in words if word not in stop] or words


def _stems(language: str, words: Sequence[str]) -> list[str]:
    """Return the stem of each word in a language; German stems have their mark."""
    if not hasattr(_thread, language):
        import Stemmer

        setattr(_thread, language, Stemmer.Stemmer(language).stemWords)
    stems: list[str] = getattr(_thread, language)(words)
    return stems if language == "english" else [_GERMAN + stem for stem in stems]


@cache
def _word_finder() -> Callable[[str], list[str]]:
    import regex

    find: Callable[[str], list[str]] = regex.compile(_WORD, regex.WORD | regex.DOTALL).findall
    return find


def _folder_name(album: str) -> str:
    """Return the last part of an album, with the one before if it has no letters: `Lisbon/2022`."""
    *above, last = [part for part in re.split(r"[/\\]", album) if part] or [""]
    if above and not re.search(r"[^\W\d_]", last):
        last = f"{above[-1]} {last}"
    return last


def _year(record: Record | Hit) -> list[str]:
    """Return the year of capture; none of a date by another source, such as of the file."""
    if record.date_source != "taken":
        return []
    try:
        return [str((_EPOCH + timedelta(seconds=record.time)).year)]
    except OverflowError:
        return []


def _album_names(name: str) -> list[str]:
    """Return the name of an album, also without its numbers: "Road Trip" of "2022 Road Trip"."""
    words = re.split(r"[\W_]+", name)
    return [" ".join(words), " ".join(word for word in words if not word.isdigit())]


def _file_name(path: str) -> str:
    """Return the name of a file, or of that of a URL or video frame, as people copy it."""
    path = path.partition("?")[0] if "://" in path else path
    return _FRAME.sub("", path).rpartition("/")[2]


def _with_parts(name: str) -> str:
    """Return a name, with the parts of words that digits or capital letters divide."""
    words = re.split(r"[\W_]+", name)
    parts = [part for word in words for part in _PARTS.findall(word) if part != word]
    return " ".join((name, *parts))

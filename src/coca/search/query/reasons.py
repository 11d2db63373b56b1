"""Why a hit of a typed query is here, in a few words: a label, its caption, or its looks."""

from coca.search.records import PEOPLE, PLACE, Hit, metadata_texts
from coca.search.words import (
    NAMED,
    SEEN,
    TAGGED,
    TEXT,
    TEXT_FIELDS,
    field_terms,
    label_keys,
    noun_key,
    query_terms,
    share,
    terms_of,
    texts_of,
)

LOOKS_LIKE = "looks like"
_MOST_SHARE = 0.5
"""Share of the query's terms from which on a text is a reason."""


def reason_of(hit: Hit, text: str, floor: float) -> str:
    """Name the first reason of a hit: a label that the query names, a text of the hit, its image.

    Args:
        hit: Hit of a typed query, which has `parts`.
        text: Texts of the query that are wanted.
        floor: Cosine of query and caption that texts in general do not reach.

    Returns:
        For example `tag: Christmas`, `person: Anna`, `caption`, `text in image` or `looks like`.
    """
    is_near = hit.caption_score is not None and hit.caption_score >= floor
    # Most hits of a page share no term with the query: their texts need not be analyzed.
    if hit.bm25 is None and "text" not in (hit.parts or {}):
        return "caption" if is_near else LOOKS_LIKE
    query, texts = query_terms(text), texts_of(hit)
    keys = label_keys(query)
    for field in (NAMED, TAGGED):
        for label in texts.get(field, "").splitlines():
            if not keys.keys().isdisjoint(field_terms({field: label}).get(field, ())):
                return f"{_kind(hit, field, label)}: {label}"
    is_given = hit.caption_source == "given"
    if is_near or (is_given and share(query, terms_of(hit.caption)) >= _MOST_SHARE):
        return "caption"
    for field, reason in ((TEXT, "text in image"), ("name", "file name"), ("tags", "tag")):
        if share(query, terms_of(texts.get(field, ""))) >= _MOST_SHARE:
            return reason
    return LOOKS_LIKE


def has_all_words(hit: Hit, text: str) -> bool:
    """Return whether labels, given caption, file name and text inside have all words of a text."""
    if not (hit.parts or {}).get("text"):
        return False
    query, texts = query_terms(text), texts_of(hit)
    plain = [term for name in TEXT_FIELDS for term in terms_of(texts.get(name, ""))]
    years = terms_of(texts.get(NAMED, ""))
    return bool(query) and share(query, (*plain, *years)) == 1.0


def tenths_seen(hit: Hit, text: str) -> int:
    """Return the probability of the noun that a text is, as a classifier sees the image, 0 to 10.

    It is 0 for a text that is no noun.
    """
    if not (hit.parts or {}).get("text"):
        return 0
    seen = texts_of(hit).get(SEEN, "")
    return field_terms({SEEN: seen})[SEEN].count(noun_key(query_terms(text)))


def _kind(hit: Hit, field: str, label: str) -> str:
    """Name the kind of a label of a hit."""
    if field == TAGGED:
        return "tag"
    for kind, keys in (("person", (PEOPLE,)), ("place", PLACE)):
        texts = metadata_texts(hit.metadata, *keys)
        if any(label in (text, *text.split()) for text in texts):
            return kind
    return "year" if label.isdigit() else "album"

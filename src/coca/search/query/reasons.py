"""Why a hit of a typed query is here, in a few words: a label, its caption, or its looks."""

from collections.abc import Iterator

from coca.search.records import Hit
from coca.search.words import (
    NAMED,
    TAGGED,
    TEXT,
    field_terms,
    label_keys,
    query_terms,
    share,
    terms_of,
    texts_of,
)

LOOKS_LIKE = "looks like"
_MOST_SHARE = 0.5
"""Share of the query's terms from which on a text is a reason."""


def reason_of(hit: Hit, text: str) -> str:
    """Name the first reason of a hit: a label that the query names, a text of the hit, its image.

    Args:
        hit: Hit of a typed query, which has `parts`.
        text: Texts of the query that are wanted.

    Returns:
        For example `tag: Christmas`, `person: Anna`, `caption`, `text in image` or `looks like`.
    """
    return next(_reasons(hit, text), LOOKS_LIKE)


def _reasons(hit: Hit, text: str) -> Iterator[str]:
    query, texts, parts = query_terms(text), texts_of(hit), hit.parts or {}
    if not parts.keys() - {"image"}:
        return
    keys = label_keys(query)
    for field in (NAMED, TAGGED):
        for label in texts.get(field, "").splitlines():
            if not keys.keys().isdisjoint(field_terms({field: label}).get(field, ())):
                yield f"{_kind(hit, field, label)}: {label}"
    is_given = hit.caption_source == "given"
    if parts.get("caption") or (is_given and share(query, terms_of(hit.caption)) >= _MOST_SHARE):
        yield "caption"
    for field, reason in ((TEXT, "text in image"), ("name", "file name"), ("tags", "tag")):
        if share(query, terms_of(texts.get(field, ""))) >= _MOST_SHARE:
            yield reason


def _kind(hit: Hit, field: str, label: str) -> str:
    """Name the kind of a label of a hit."""
    if field == TAGGED:
        return "tag"
    kinds = (("person", ("people",)), ("place", ("city", "country")))
    for kind, names in kinds:
        values = [hit.metadata.get(name) for name in names]
        listed = [it for value in values for it in (value if isinstance(value, list) else [value])]
        if any(isinstance(it, str) and label in (it, *it.split()) for it in listed):
            return kind
    return "year" if label.isdigit() else "album"

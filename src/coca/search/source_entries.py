"""Source entries: the etag of a path in each source that lists it, joined in one text.

A folder and a table may list the same image file. A record keeps the etags of both, so that each
source recognizes its own entry. The first etag is of the source whose caption and metadata the
record holds.
"""

import re
from collections.abc import Iterable

_BETWEEN = "|"
_MARK = re.compile(r"[0-9a-f]{8}:")


def split_source_entries(joined: str) -> list[str]:
    """Split the joined etags; the source with priority comes first."""
    return joined.split(_BETWEEN)


def join_source_entries(etags: Iterable[str]) -> str:
    """Join etags into one text."""
    return _BETWEEN.join(etags)


def source_of(etag: str) -> str:
    """Return the source prefix of an etag: a table's mark, or empty for other sources."""
    mark = _MARK.match(etag)
    return mark.group() if mark else ""


def replace_source_entry(etags: Iterable[str], new_etag: str, *, first: bool) -> str:
    """Replace a source's entry by its new etag: first if it has priority, else last."""
    others = [etag for etag in etags if source_of(etag) != source_of(new_etag)]
    return join_source_entries([new_etag, *others] if first else [*others, new_etag])


def has_priority(etag: str, caption: str, *, over: str, captioned: bool) -> bool:
    """Return whether one source's metadata takes precedence over another's for the same path.

    Metadata with a caption takes precedence over metadata without; then a table's over a sidecar's.
    Of equals, the later metadata takes precedence.

    Args:
        etag: Etag of the source.
        caption: Caption of the source; empty if it gives none.
        over: Etag of the other source, whose metadata holds so far.
        captioned: Whether the other source gives a caption.
    """
    return (bool(caption), bool(source_of(etag))) >= (captioned, bool(source_of(over)))

"""Claims: by what stamp each source knows a path, in one text where several sources hold it.

A folder and a table may name the same image file. A record keeps the stamps of both, so that
each finds what it left there; the first one is of the source whose words are the record's.
"""

import re
from collections.abc import Iterable

_BETWEEN = "|"
_MARK = re.compile(r"[0-9a-f]{8}:")


def claims_in(stamps: str) -> list[str]:
    """The stamps that stand in one text, that of the speaking source first."""
    return stamps.split(_BETWEEN)


def join_claims(claims: Iterable[str]) -> str:
    """One text of several stamps."""
    return _BETWEEN.join(claims)


def source_of(stamp: str) -> str:
    """What tells a stamp from those of other sources: a table's mark, or nothing for the rest."""
    mark = _MARK.match(stamp)
    return mark.group() if mark else ""


def with_claim(claims: Iterable[str], stamp: str, *, speaks: bool) -> str:
    """The claims with a source's newest one in place of its old one: first, or after the others."""
    others = [claim for claim in claims if source_of(claim) != source_of(stamp)]
    return join_claims([stamp, *others] if speaks else [*others, stamp])


def is_heard(stamp: str, caption: str, *, over: str, captioned: bool) -> bool:
    """Whether the words of one source go before those of another that holds the same path.

    Words with a caption go before those without; then a table's go before those beside an image.
    Of equals the later ones are heard.

    Args:
        stamp: The one's.
        caption: The one's, empty if it gives none.
        over: Stamp of the other one, whose words count so far.
        captioned: The other one gives a caption.
    """
    return (bool(caption), bool(source_of(stamp))) >= (captioned, bool(source_of(over)))

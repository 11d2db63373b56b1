"""Settings of hybrid search for the page: fusion, BM25 and case folding as Python has them."""

import sys
from collections.abc import Sequence
from typing import Any

from coca.search.milvus.collection import Collection
from coca.search.query.hybrid.bm25_index import K1, B
from coca.search.query.hybrid.fusion import Fusion
from coca.search.query.hybrid.hybrid_search import DEPTHS, typed_fusion
from coca.search.query.query_terms import Term
from coca.search.records import Record


def hybrid_settings(index: Collection, records: Sequence[Record]) -> dict[str, Any] | None:
    """Describe the search of typed queries by images and by given captions.

    Args:
        index: The collection.
        records: Its records.

    Returns:
        Settings for `hybrid.js` and `bm25.js`. None if typed queries are searched by images alone:
        no caption is given, or `coca search` does so as well; see `typed_fusion`.
    """
    fusion = typed_fusion(index, [Term(text="any")])
    given = any(record.caption_source == "given" for record in records)
    if not isinstance(fusion, Fusion) or not given:
        return None
    # The page has no other method and no other choice of captions.
    assert (fusion.method, fusion.captions) == ("scores", "given")
    return {
        "text_weight": fusion.text_weight,
        "vector_share": fusion.vector_share,
        "uncaptioned": fusion.uncaptioned,
        "depths": DEPTHS,
        "bm25": {"k1": K1, "b": B, "casefold": casefold_exceptions()},
    }


def casefold_exceptions() -> dict[str, str]:
    """Map each character to its case folding where that differs from its lower case.

    JavaScript has lower case, but no case folding.
    """
    characters = map(chr, range(sys.maxunicode + 1))
    return {one: one.casefold() for one in characters if one.casefold() != one.lower()}

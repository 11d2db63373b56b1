"""Short queries: the texts by which queries such as "a dog" and "show me dogs." are searched.

Captions of drawings and keywords are bare words, so a model of images and short labels places "a
dog" far from "dog". A query of up to three words is searched without its request, article and final
punctuation, and a plural by the mean of plural and singular. The rules are those of English; other
languages pass unchanged but for punctuation. Longer queries are captions, and stay as typed. Emoji
are replaced by their Unicode names, since captions have words.

Dimensions: Q queries, E embedding size.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32

MAX_WORDS = 3
"""Words of a short query, without request and article."""

_REQUEST = r"((please )?(show|find|get|give)( me)? |(i am |i'm )?(looking|searching|search) for )+"
_ARTICLE = r"((an?|the|some|any) )+"
_END = " .,;!?"
_PAIRS = (
    "calves:calf canoes:canoe children:child cookies:cookie feet:foot geese:goose halves:half "
    "knives:knife leaves:leaf loaves:loaf men:man mice:mouse movies:movie people:person "
    "scarves:scarf shelves:shelf teeth:tooth thieves:thief wolves:wolf women:woman zombies:zombie"
)
_IRREGULAR = dict(pair.split(":") for pair in _PAIRS.split())
_KEPT = (
    "atlas binoculars canvas christmas clothes glasses goggles headphones jeans news pajamas pants "
    "pyjamas scissors series shorts sunglasses texas trousers"
)
_NO_PLURAL = frozenset(_KEPT.split())
_ENDINGS = (
    (r"(?<=[a-z][^aeiou])ies$", "y"),
    (r"(?<=ss|ch|sh)es$|(?<=x)es$|(?<=[^o]us)es$|(?<=[a-z][a-z][^h]o)es$", ""),
    # "bus", "grass" and "tennis" are no plurals.
    (r"(?<=[a-z][a-z][a-hj-rtv-z])s$", ""),
)
"""The first that fits is replaced."""

_EMOJI_BLOCKS = (
    *((0x231A, 0x231B), (0x23E9, 0x23F3), (0x2600, 0x27BF), (0x2B50, 0x2B55)),
    *((0x1F300, 0x1F6FF), (0x1F7E0, 0x1F7EB), (0x1F900, 0x1F9FF), (0x1FA70, 0x1FAFF)),
)
_UNSPOKEN = (0x200D, 0xFE0F, *range(0x1F3FB, 0x1F400))
"""Joiner, variation selector and skin tones, which are left out of the name of an emoji."""

_EMOJI = {
    code: f" {unicodedata.name(chr(code)).lower()} "
    for first, last in _EMOJI_BLOCKS
    for code in range(first, last + 1)
    if unicodedata.category(chr(code)) == "So" and code not in _UNSPOKEN
}
_EMOJI[0x2764] = " red heart "  # its name in Unicode is "heavy black heart"
_NAMES: dict[int, str] = {**_EMOJI, **dict.fromkeys(_UNSPOKEN, "")}

RULES = {
    "max_words": MAX_WORDS,
    "request": _REQUEST,
    "article": _ARTICLE,
    "end": _END,
    "irregular": _IRREGULAR,
    "no_plural": sorted(_NO_PLURAL),
    "endings": _ENDINGS,
    "emoji": {chr(code): name for code, name in _EMOJI.items()},
    "unspoken": "".join(map(chr, _UNSPOKEN)),
}
"""All rules, for a search page in another language; the expressions are the same in JavaScript."""


def bare_query(text: str) -> str:
    """Remove the request, the article and the final punctuation of a short query.

    Returns:
        The text as typed, with names for emoji, if more than three words or none remain.
    """
    text = name_emoji(text)
    bare = " ".join(text.split()).rstrip(_END)
    for removed in (_REQUEST, _ARTICLE):
        bare = re.sub(f"^{removed}", "", bare, flags=re.IGNORECASE)
    return bare if 0 < len(bare.split()) <= MAX_WORDS else text


def name_emoji(text: str) -> str:
    """Replace emoji by their Unicode names; a text without emoji is unchanged."""
    if not any(ord(char) in _EMOJI for char in text):
        return text
    return " ".join(text.translate(_NAMES).split())


def singular(text: str) -> str:
    """Replace an English plural at the end of a text; a text without one is unchanged."""
    start, space, word = text.rpartition(" ")
    lower = word.lower()
    if lower in _NO_PLURAL:
        return text
    if lower in _IRREGULAR:
        return start + space + _IRREGULAR[lower]
    for ending, replaced in _ENDINGS:
        if re.search(ending, lower):
            return start + space + re.sub(ending, replaced, word, flags=re.IGNORECASE)
    return text


def query_forms(query: str) -> list[str]:
    """Return the texts whose mean embedding is that of a query: one, or plural and singular."""
    bare = bare_query(query)
    short = len(bare.split()) <= MAX_WORDS
    return list(dict.fromkeys([bare, singular(bare)] if short else [bare]))


def word_forms(queries: Sequence[str]) -> list[tuple[str, ...]]:
    """Split queries into words for full-text search, each with its singular if it is a plural."""
    words = [
        tuple(dict.fromkeys(forms))
        for query in queries
        for forms in zip(*(text.split(" ") for text in query_forms(query)), strict=True)
    ]
    return list(dict.fromkeys(words))


def join_forms(words: Sequence[Sequence[str]]) -> str:
    """Join all forms of the words of a query to a text for full-text search, each form once."""
    return " ".join(dict.fromkeys(form for word in words for form in word))


def embed_queries(
    embed_texts: Callable[[Sequence[str]], Float32[np.ndarray, "N E"]], queries: Sequence[str]
) -> Float32[np.ndarray, "Q E"]:
    """Embed queries as vectors of length 1; see the head of this module.

    Args:
        embed_texts: Function that embeds texts as vectors of length 1.
        queries: Queries as typed.
    """
    forms = [query_forms(query) for query in queries]
    unique = list(dict.fromkeys(text for some in forms for text in some))
    vectors = dict(zip(unique, embed_texts(unique), strict=True))
    means = np.stack([np.mean([vectors[text] for text in some], axis=0) for some in forms])
    # A vector of one text has length 1 already, and stays equal to the last bit.
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    several = np.array([[len(some) > 1] for some in forms])
    return np.divide(means, lengths, out=means, where=several).astype(np.float32, copy=False)

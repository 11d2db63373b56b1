"""Texts in general, with which a query is compared: when is a caption near to it?

Two unrelated texts have a high cosine, and how high depends on the model and on the query. So the
ranking compares the cosine of query and caption with those of the query and texts that describe no
image of the collection. There are two kinds, as captions are: sentences, and short names, which are
nearer to a typed noun than sentences are. With one kind alone, the captions of a tenth of 1,000
drawings, or of 1,000 photos, cost .05 of MRR@10 against a ranking by images alone.

Dimensions: N texts, E embedding.
"""

import hashlib
import io
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import StorageError
from coca.core.files.atomic import user_cache, write_atomic
from coca.search.ranking import Spread

SENTENCES = 500
_SUBJECTS = (
    "a man|a woman|two children|a boy|a girl|a baby|an old couple|a family|three friends|"
    "a crowd of people|a brown dog|a black cat|a white horse|some cows|a bird|two ducks|"
    "an elephant|a butterfly|a red car|a bus|a train|an airplane|a sailing boat|a bicycle|"
    "a motorcycle|a house|a church|a bridge|a tall building|a street market|a mountain|a lake|"
    "a river|a beach|a forest|a flower|a tree|a bowl of soup|a birthday cake|fresh fruit|"
    "a cup of coffee|a plate of pasta|a guitar|a laptop|an old clock|a lamp|a wooden chair|"
    "a pair of shoes|a toy|a football"
)
_ACTIONS = (
    "|standing|sitting|running|sleeping|lying on the ground|looking at the camera|smiling|"
    "in motion|seen from above|seen from behind|close up|covered in snow|in black and white|"
    "next to a fence|in front of a wall|under a tree|near the water|with an umbrella|with a ball"
)
_PLACES = (
    "|in the park|on the beach|in the kitchen|in the street|at night|at sunset|in the garden|"
    "on a table|in the snow|in the mountains|at the lake|in the city|by the window|in the rain|"
    "on the grass|at a party|on stage|in a museum|at home"
)
_TITLES = (
    "Our old house|Summer holiday|Christmas dinner|My sister and her kids|First day of school|"
    "Wedding anniversary|Uncle's new car|The view from the hotel|Trip to the mountains|Graduation|"
    "Grandpa in the garden|Family reunion|Moving day|New kitchen|Sunday walk|Birthday party|"
    "Office team|Concert last night|Weekend at the lake|Last day of vacation"
)
_ARTICLES = ("a", "an", "two", "three", "some")
_EMBEDDED = dict[str, Float32[np.ndarray, "N E"]]()
"""Vectors by model and texts."""
_lock = threading.Lock()
"""Held while texts are embedded: each of 20 first requests of a service embedded all of them, and
most were refused by the full queue of the model."""


@cache
def background_texts() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the sentences and the short names with which queries are compared."""
    subjects, actions, places, titles = (
        texts.split("|") for texts in (_SUBJECTS, _ACTIONS, _PLACES, _TITLES)
    )
    # Steps without a common divisor with the lengths of the lists combine all their parts.
    sentences = tuple(
        " ".join(
            filter(
                None,
                (
                    subjects[row % len(subjects)],
                    actions[(7 * row + row // 50) % len(actions)],
                    places[(11 * row + 3 * (row // 50)) % len(places)],
                ),
            )
        )
        for row in range(SENTENCES)
    )
    bare = [
        subject.partition(" ")[2] if subject.partition(" ")[0] in _ARTICLES else subject
        for subject in subjects
    ]
    return sentences, (*bare, *titles, *filter(None, actions), *filter(None, places))


def spreads_of(embedder: Any, query: Float[np.ndarray, " E"]) -> tuple[Spread, ...]:
    """Compute the spread of the cosines of a query with each kind of texts in general.

    The first call for a model embeds 600 texts, and keeps their vectors in the user's cache folder.

    Args:
        embedder: Model of the query.
        query: Query vector of length 1.
    """
    cosines = [text_vectors(embedder, texts) @ query for texts in background_texts()]
    return tuple(Spread(float(some.mean()), float(some.std())) for some in cosines)


def text_vectors(embedder: Any, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
    """Embed texts, or read their vectors from memory or from the user's cache folder."""
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
    key = f"{embedder.fingerprint}-{embedder.embed_dim}-{digest}"
    if key not in _EMBEDDED:
        with _lock:
            if key not in _EMBEDDED:
                _EMBEDDED[key] = _cached_vectors(embedder, texts, key)
    return _EMBEDDED[key]


def _cached_vectors(embedder: Any, texts: Sequence[str], key: str) -> Float32[np.ndarray, "N E"]:
    path = user_cache() / "texts" / f"{key}.npy"
    try:
        return np.load(path).astype(np.float32).reshape(len(texts), embedder.embed_dim)
    except (OSError, ValueError):
        # Rounded as they are kept, so that the first call returns what later ones read.
        vectors, buffer = embedder.embed_texts(list(texts)).astype(np.float16), io.BytesIO()
        np.save(buffer, vectors)
        with suppress(StorageError):
            write_atomic(path, buffer.getvalue())
        return vectors.astype(np.float32)

"""The ranking rule of typed queries: a sum of absolute similarities.

    score = image_weight cos(query, image)
          + caption_weight cos(query, caption)
          + words_weight b / (b + words_half)
          + text_weight s^4

b is the BM25 of the query's words in what the record says (caption, tags, names), 0 where they
share none, and s the share of these words that its labels have: tags, people, place, album, file
name and the text inside the image. (BM25 is low where few images have text, in long texts, and of
a tag that many images have: with it, a page with the words "oak table" came after photos of other
things.) Nothing is normalized among the hits of a query, so the score of a record
depends on the query and the record, and on the other records by BM25 only: it is the same on every
page of hits, and with any number of records.

A record without a caption that counts has no caption cosine: `uncaptioned` times the cosine of its
image replaces it.

Dimensions: N records.
"""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from coca.search.records import Hit
from coca.search.search_options import Ranking


def fused_scores(
    image: Float[np.ndarray, " N"],
    caption: Float[np.ndarray, " N"],
    words: Float[np.ndarray, "N 2"],
    ranking: Ranking,
) -> Float[np.ndarray, " N"]:
    """Compute the scores by which records are sorted."""
    return sum(parts_of(image, caption, words, ranking).values(), np.zeros(len(image)))


def parts_of(
    image: Float[np.ndarray, " N"],
    caption: Float[np.ndarray, " N"],
    words: Float[np.ndarray, "N 2"],
    ranking: Ranking,
) -> dict[str, Float[np.ndarray, " N"]]:
    """Compute what image, caption, words and text give to the scores; see `fused_scores`."""
    image, caption, words = (part.astype(np.float64) for part in (image, caption, words))
    bm25, share = words.T
    caption = np.where(np.isnan(caption), ranking.uncaptioned * image, caption)
    return {
        "image": ranking.image_weight * image,
        "caption": ranking.caption_weight * caption,
        "words": words_part(bm25, ranking),
        "text": text_part(share, ranking),
    }


def words_part(bm25: Float[np.ndarray, " N"], ranking: Ranking) -> Float[np.ndarray, " N"]:
    """Compute what the words give to the scores."""
    return ranking.words_weight * bm25 / (bm25 + ranking.words_half)


def text_part(share: Float[np.ndarray, " N"], ranking: Ranking) -> Float[np.ndarray, " N"]:
    """Compute what the words of labels and of the text inside the images give to the scores."""
    return ranking.text_weight * share**4


def ranked_hit(
    hit: Hit, ranking: Ranking, *, image: float, caption: float, bm25: float, inside: float
) -> Hit:
    """Set the score of a hit, and what it consists of; a caption of NaN does not count."""
    single = [np.array([one], np.float64) for one in (image, caption)]
    given = parts_of(single[0], single[1], np.array([[bm25, inside]]), ranking)
    parts = {name: float(part[0]) for name, part in given.items()}
    if not inside:
        del parts["text"]
    return replace(
        hit,
        score=image,
        caption_score=None if math.isnan(caption) else caption,
        bm25=bm25 or None,
        fused_score=sum(parts.values()),
        parts=parts,
    )

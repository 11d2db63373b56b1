"""The ranking rule of typed queries: a sum in which every part can only add.

    score = image_weight cos(query, image)
          + caption_weight max(0, cos(query, caption) - f)
          + words_weight b / (b + 12)
          + text_weight (l + s^4)

f is the caption floor, which texts in general do not reach: mean + z standard deviations of the
cosines of the query with texts that describe no image of the collection (`Spread`), the higher of
two kinds of texts. z is 4 (1 - c^4) for a fraction c of images with a caption: among some captions
a chance resemblance must not lift an image above those without, and where all images have one it
orders them. Only captions that people gave are compared; those by the model have little that the
vector of the image lacks, and add words alone, if wanted.

b is the BM25 of the query's terms in what the record says (caption, tags, names), l what its labels
have of the labels that the query names (`text_match` of `coca.search.words`), and s the share of
the query's terms in its labels, given caption, file name and the text inside the image.

Without a floor, five captions such as "Our old house" among 400 photos were the first five hits of
every query: two unrelated texts have a cosine of .45, an unrelated photo and text of .02. The
constants are measured by `benchmarks/ranking.py` at five fractions of images with captions, next to
a ranking by images alone.

The score of a record depends on the query and the record, and on the other records by BM25 and by
the fraction of captioned images only: it is the same on every page of hits.

Dimensions: N records, E embedding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from coca.search.records import Hit
from coca.search.search_options import Ranking

FLOOR_DEVIATIONS = 4.0
"""Standard deviations of the caption floor where no image has a caption. 3.5 costs photos of
Flickr8k .016 of MRR@10 with 10 % of the captions, against images alone."""
FLOOR_POWER = 4
"""Power of the fraction of captioned images. With 1, half of the captions cost photos of Flickr8k
.12 of recall@10, as the photos without were behind those with one."""
WORDS_HALF = 12.0
"""BM25 for which a record gets half of `words_weight`."""
NO_FLOOR = -math.inf
"""Caption floor without texts to compare with: the whole cosine counts."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of the cosines of a query with texts in general."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class TypedQuery:
    """A query with a text, as stores rank by it."""

    vector: Float32[np.ndarray, " E"]
    """Query vector of any length."""
    text: str
    """Text whose terms are looked up."""
    spreads: Sequence[Spread] = ()
    """Spreads of its cosines with kinds of texts in general; none: each caption counts whole."""

    def caption_floor(self, captioned: float) -> float:
        """Return the cosine of a caption from which on it counts.

        Args:
            captioned: Fraction of the images with a caption that people gave, 0 to 1.
        """
        deviations = FLOOR_DEVIATIONS * (1 - captioned**FLOOR_POWER)
        floors = (one.mean + deviations * one.deviation for one in self.spreads)
        return max(floors, default=NO_FLOOR)


def parts_of(
    image: Float[np.ndarray, " N"],
    caption: Float[np.ndarray, " N"],
    words: Float[np.ndarray, "N 2"],
    ranking: Ranking,
    floor: float,
) -> dict[str, Float[np.ndarray, " N"]]:
    """Compute what image, caption, words and text add to the scores, the sums of these parts.

    Args:
        image: Cosines of query and image.
        caption: Cosines of query and caption; NaN where people gave none.
        words: BM25, and the match of the text: l + s^4 of the rule.
        ranking: Weights.
        floor: The caption floor.
    """
    image, caption, words = (part.astype(np.float64) for part in (image, caption, words))
    bm25, text = words.T
    return {
        "image": ranking.image_weight * image,
        "caption": ranking.caption_weight * np.nan_to_num(above_floor(caption, floor)),
        "words": words_part(bm25, ranking),
        "text": ranking.text_weight * text,
    }


def above_floor(caption: Float[np.ndarray, "*N"], floor: float) -> Float[np.ndarray, "*N"]:
    """Compute by how much cosines exceed the caption floor, at least 0; NaN stays NaN."""
    return caption if floor == NO_FLOOR else np.maximum(caption - caption.dtype.type(floor), 0)


def words_part(bm25: Float[np.ndarray, " N"], ranking: Ranking) -> Float[np.ndarray, " N"]:
    """Compute what BM25 adds to the scores."""
    return ranking.words_weight * bm25 / (bm25 + WORDS_HALF)


def ranked_hits(
    hits: Sequence[Hit], columns: Float[np.ndarray, "N 4"], ranking: Ranking, floor: float
) -> list[Hit]:
    """Set the scores of hits, and what they consist of.

    Args:
        hits: Hits.
        columns: Of each, the cosines of image and caption (NaN: the caption does not count), BM25
            and match of the text.
        ranking: Weights.
        floor: The caption floor.
    """
    parts = parts_of(columns[:, 0], columns[:, 1], columns[:, 2:], ranking, floor)
    added = np.stack([*parts.values()], axis=1).tolist()
    ranked = []
    for hit, (image, caption, bm25, text), values in zip(
        hits, columns.tolist(), added, strict=True
    ):
        own = dict(zip(parts, values, strict=True))
        if not text:
            del own["text"]
        ranked.append(
            hit.replace(
                score=image,
                caption_score=None if math.isnan(caption) else caption,
                bm25=bm25 or None,
                fused_score=sum(own.values()),
                parts=own,
            )
        )
    return ranked

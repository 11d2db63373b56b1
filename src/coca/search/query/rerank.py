"""Rerank the top-k hits by caption likelihood, or rescore them by whole vectors.

The score is `logit_scale * cosine + log p(text | image)`, in nats: a joint model of the contrastive
and the captioning head.

The whole vectors are in another collection of the same records, such as a folder on disk, from
which `coca migrate` filled the smaller one. Only the first hits are read from it.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import ArgumentError
from coca.search.index_params.index_types import MAX_RESULTS
from coca.search.predictor import CaptionScorer
from coca.search.query.milvus_search import MilvusSearch
from coca.search.query.originals import ImageOpener, read_originals
from coca.search.query.searchable import VectorSearch
from coca.search.records import Hit, Record, check_same_model, sort_key
from coca.search.search_options import SearchOptions

# Rerank the top-k hits by cosine and caption likelihood.


logger = logging.getLogger(__name__)


def check_texts(texts: Mapping[str, float]) -> None:
    """Check that the query has a text to score."""
    if not texts:
        raise ArgumentError(
            "re-ranking asks how likely words are, and the query has none: add a text"
        )


def rerank(
    hits: Sequence[Hit],
    records: Mapping[str, Record],
    texts: Mapping[str, float],
    scorer: CaptionScorer,
    *,
    cosines: Mapping[str, float],
    open_image: ImageOpener,
) -> list[Hit]:
    """Rerank hits by cosine and caption likelihood, reading their images by path.

    Hits whose image cannot be read follow the others in their previous order. A warning names the
    first of them.
    """
    check_texts(texts)
    hits = [hit for hit in hits if hit.id in records]
    originals, lost = read_originals([records[hit.id] for hit in hits], open_image)
    if lost:
        logger.warning(
            "%s of %s images cannot be re-ranked and follow the others, the first since %s",
            f"{len(lost):,}",
            f"{len(hits):,}",
            lost[0],
        )
    read = [hit for hit in hits if hit.id in originals]
    images = [originals[hit.id] for hit in read]
    ranked = reranked(read, images, texts, scorer, cosines=[cosines[hit.id] for hit in read])
    return [*ranked, *(hit for hit in hits if hit.id not in originals)]


def reranked(
    hits: Sequence[Hit],
    images: Sequence[Any],
    texts: Mapping[str, float],
    scorer: CaptionScorer,
    *,
    cosines: Sequence[float] | None = None,
) -> list[Hit]:
    """Sort hits by scaled cosine plus log-likelihood of the texts, best first.

    `score` is unchanged; `log_likelihood` and `rank_score`, the sum, are set.
    """
    check_texts(texts)
    if not hits:
        return []
    weights = np.array(list(texts.values()))
    likely = scorer.score(images, list(texts)) @ weights
    if cosines is None:
        cosines = [hit.score for hit in hits]
    joint = scorer.logit_scale * np.array(cosines) + likely
    return [
        replace(hits[row], log_likelihood=float(likely[row]), rank_score=float(joint[row]))
        for row in np.argsort(-joint, kind="stable")
    ]


# Rescoring: rank the first hits of a collection of smaller vectors by the whole vectors.


DEPTH = 100
"""Default number of first hits that are rescored."""


class RescoredIndex(MilvusSearch):
    """Collection of smaller vectors whose first hits are ranked by another one's vectors.

    A hit that the other collection lacks keeps its score.

    Example:
        with Collection.open("http://host:19530") as small, Collection.open("coca.db") as whole:
            engine = SearchEngine(coca.load(), RescoredIndex(small, whole))
    """

    def __init__(
        self, collection: VectorSearch, whole: VectorSearch, *, depth: int = DEPTH
    ) -> None:
        """Combine both; neither is closed."""
        check_same_model(
            whole.info, fingerprint=collection.info.fingerprint, embed_dim=collection.info.embed_dim
        )
        super().__init__(collection)
        self._whole, self._depth = whole, depth

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        **options: Any,
    ) -> list[list[Hit]]:
        """Find the nearest records to each vector, nearest first; see `Collection.search`.

        Pages beyond `depth` are not parts of one list.
        """
        page = SearchOptions.of(k=k, **options)
        page.check_page(MAX_RESULTS)
        options["offset"], options["min_score"] = 0, None
        wanted = page.offset + k
        answers = self._collection.search(vectors, max(self._depth, wanted), **options)
        ids = dict.fromkeys(hit.id for hits in answers for hit in hits)
        known = self._whole.get(ids)
        rescored = [
            self._rescored(np.asarray(query, np.float32), hits, known, page)[page.offset : wanted]
            for query, hits in zip(vectors, answers, strict=True)
        ]
        return page.keep_similar(rescored)

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids, with whole vectors where they are known."""
        found = self._collection.get(ids)
        whole = self._whole.get(found)
        return {
            id: replace(record, vector=whole[id].vector, text_vector=whole[id].text_vector)
            if id in whole
            else record
            for id, record in found.items()
        }

    def _rescored(
        self,
        query: Float32[np.ndarray, " E"],
        hits: list[Hit],
        known: dict[str, Record],
        page: SearchOptions,
    ) -> list[Hit]:
        scored = [
            replace(hit, score=known[hit.id].cosine(query, page.on)) if hit.id in known else hit
            for hit in hits
        ]
        return sorted(scored, key=lambda hit: sort_key(hit.score, hit.id))

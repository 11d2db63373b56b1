"""Joins a model to a collection to choose from it: subsets to learn from, and near-duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ConfigError, SearchError
from coca.core.progress import ProgressMaker, silent
from coca.inference.predictor import Predictor
from coca.search.milvus.collection import Collection
from coca.search.milvus.collection_io import batches
from coca.search.mining.duplicates import KEPT_PAIRS, Duplicates, near_duplicates
from coca.search.mining.selection import Choice, choose, entropy, similarity
from coca.search.mining.zero_shot import read_classes
from coca.search.query.engine import SearchEngine
from coca.search.query.in_memory import InMemoryIndex
from coca.search.query.query_terms import Term
from coca.search.records import check_same_model
from coca.workflows.collections.class_prompts import check_classes_model
from coca.workflows.collections.subset import Subset, check_out, write_subset

_READ_ROWS = 1_000


@dataclass(frozen=True, kw_only=True)
class Mining:
    """Which images are wanted; of the first three at most one is given."""

    terms: Sequence[Term] = ()
    """Those nearest to a query."""
    examples: Sequence[str | Path] = ()
    """Those nearest to any of a few images."""
    unsure_among: Collection | None = None
    """Those that the model is least sure to classify among these classes."""
    filter: str = ""
    """Milvus expression that each must fulfil."""
    away_from: Sequence[str | Path] = ()
    """Pictures that none may be a near-duplicate of, such as those of a test set."""

    def __post_init__(self) -> None:
        given = [bool(self.terms), bool(self.examples), self.unsure_among is not None]
        if sum(given) > 1:
            raise ConfigError("choose by a query, by examples, or by doubt: give one of them")

    @property
    def gives_scores(self) -> bool:
        """Whether some images are wanted more than others."""
        return bool(self.terms or self.examples or self.unsure_among)


def mine(
    index: Collection,
    predictor: Predictor,
    mining: Mining,
    choice: Choice,
    out: str | Path,
    *,
    model_captions: bool = False,
    progress: ProgressMaker = silent,
) -> Subset:
    """Chooses images of a collection, and writes them so that training reads them.

    Args:
        index: The collection.
        predictor: The model that filled it.
        mining: What is wanted.
        choice: How many, and which not.
        out: Where they go: a manifest if it ends in `.jsonl`, else a folder for shards.
        model_captions: Write captions that a model wrote as well; see `write_subset`.
        progress: Shows how far it is.

    Returns:
        How many were chosen and written, and which of them cannot be had any more.

    Raises:
        ConfigError: `out` is no name of either, or a least score is asked for where none is given.
        SearchError: The collection or the classes belong to another model, there is no class, no
            image is left to choose, or none of them can be written.
        DataError: An example cannot be read.
    """
    check_out(out)
    if choice.min_score is not None and not mining.gives_scores:
        raise ConfigError(
            f"a least score of {choice.min_score:g} needs scores, which a query, examples or doubt "
            "give: name one of them, or leave the least score out"
        )
    _check_model(index, predictor)
    if mining.unsure_among is not None:
        check_classes_model(mining.unsure_among.info, predictor)
    resident = InMemoryIndex(index, progress=progress)
    ids, vectors = resident.vectors()
    if mining.filter:
        kept = set(index.ids(mining.filter))
        rows = [row for row, id in enumerate(ids) if id in kept]
        ids, vectors = [ids[row] for row in rows], vectors[rows]
    scores = _scores(resident, predictor, mining, vectors)
    away = predictor.embed_images(list(mining.away_from)) if mining.away_from else None
    chosen = choose(vectors, choice, scores=scores, away_from=away, progress=progress)
    given = {ids[row]: 0.0 if scores is None else float(scores[row]) for row in chosen}
    if not given:
        raise SearchError(_nothing_left(len(index.ids()), len(vectors), scores, choice))
    return write_subset(out, index, given, model_captions=model_captions, progress=progress)


def find_duplicates(
    index: Collection,
    *,
    least: float,
    others: Sequence[str | Path] = (),
    predictor: Predictor | None = None,
    keep: int = KEPT_PAIRS,
    progress: ProgressMaker = silent,
) -> tuple[Duplicates, dict[int, str]]:
    """The near-duplicates of a collection, and the paths of its rows that are among them.

    Args:
        index: The collection.
        least: Cosine from which two count as the same.
        others: Images to compare with; default: the collection with itself.
        predictor: The model that filled the collection; only `others` need it.
        keep: Most pairs to name.
        progress: Shows how far it is.

    Raises:
        SearchError: `least` is not above 0 and at most 1, or the collection belongs to another
            model.
        DataError: One of `others` cannot be read.
    """
    apart = None
    if others:
        assert predictor is not None, "other images need the model"
        _check_model(index, predictor)
        apart = predictor.embed_images(list(others), progress=progress)
    resident = InMemoryIndex(index, progress=progress)
    ids, vectors = resident.vectors()
    found = near_duplicates(vectors, apart, least=least, keep=keep, progress=progress)
    rows = [row for group in found.groups for row in group] if apart is None else found.drop
    # Of many only the paths are kept. What left the collection meanwhile goes by its id.
    paths = {row: ids[row] for row in rows}
    for part in batches(rows, _READ_ROWS):
        there = {hit.id: hit.path for hit in index.hits({ids[row]: 1.0 for row in part})}
        paths |= {row: there[ids[row]] for row in part if ids[row] in there}
    return found, paths


def _scores(
    resident: InMemoryIndex,
    predictor: Predictor,
    mining: Mining,
    vectors: Float32[np.ndarray, "N E"],
) -> Float32[np.ndarray, " N"] | None:
    if mining.terms:
        query = SearchEngine(predictor, resident).query(mining.terms)
        return vectors @ query[0]
    if mining.examples:
        return similarity(vectors, predictor.embed_images(list(mining.examples)))
    if mining.unsure_among is not None:
        _, classes = read_classes(mining.unsure_among)
        return entropy(vectors, classes, logit_scale=predictor.logit_scale)
    return None


def _check_model(index: Collection, predictor: Predictor) -> None:
    check_same_model(index.info, fingerprint=predictor.fingerprint, embed_dim=predictor.embed_dim)


def _nothing_left(
    total: int,
    filtered: int,
    scores: Float32[np.ndarray, " N"] | None,
    choice: Choice,
) -> str:
    """Why no image was chosen."""
    if not total:
        return "the collection is empty, so there is nothing to choose"
    if not filtered:
        return f"none of {total:,} images fulfils the filter, so nothing is written"
    if scores is not None and choice.min_score is not None and scores.max() < choice.min_score:
        return (
            f"none of {filtered:,} images has a score of {choice.min_score:g} or more, the best "
            f"has {scores.max():.3f}, so nothing is written"
        )
    return "all that could be chosen are too like what to stay away from, so nothing is written"

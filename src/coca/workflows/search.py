"""Joins a loaded model to a collection that is filled, and searches in it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coca.core.errors import ConfigError, ModelError, SearchError
from coca.core.progress import ProgressMaker, silent
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.search.engine import SearchEngine
from coca.search.fusion import Fusion
from coca.search.hybrid import search_hybrid, word_search
from coca.search.milvus import Index, Side
from coca.search.records import CollectionInfo, Hit, Record
from coca.search.reindex import picture_of
from coca.search.rerank import CaptionScorer, reranked
from coca.search.resident import Resident
from coca.search.terms import Term, check_terms
from coca.workflows.collection_model import model_of
from coca.workflows.path_reader import PathReader


@contextmanager
def open_search(
    uri: str,
    *,
    collection: str = "pictures",
    token: str = "",
    model: Predictor | str | Path | None = None,
    fallback: Callable[[], str | Path | None] | None = None,
    device: str | None = None,
    resident: bool = False,
    progress: ProgressMaker = silent,
) -> Iterator[SearchEngine]:
    """Opens a collection for search with the model that filled it; closes it at the end.

    Args:
        uri: Path that ends in `.db`, or address of a Milvus server.
        collection: Name within that place.
        token: `"user:password"` or a key, for servers that want one.
        model: A loaded model or a folder; by default the one that the collection names.
        fallback: Names a model to load if the collection's is not there, or None if there is none;
            it may raise to say what else to do.
        device: Where a model that is loaded goes; see `coca.load`.
        resident: Read all vectors into memory, and answer exactly from there.
        progress: Shows how far reading is.

    Yields:
        The engine.

    Raises:
        SearchError: The collection is missing, or was filled by another model.
        ModelError: The model cannot be loaded.
    """
    # The collection first: it opens in a moment, and what is wrong with it is told at once.
    with Index.open(uri, collection, token=token) as index:
        if not isinstance(model, Predictor):
            model = load(model or _model_of(index.info, fallback), device=device)
        yield SearchEngine(model, Resident(index, progress=progress) if resident else index)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How to search, and which of the results to give."""

    k: int = 10
    """How many results, at most."""
    offset: int = 0
    """How many of the best to leave out, for paging."""
    filter: str = ""
    """Milvus expression that a record must fulfil."""
    min_score: float | None = None
    """Cosine below which nothing is given, -1 to 1."""
    on: Side = "image"
    """What the query is compared with: pictures, or their captions."""
    one_each_album: bool = False
    """Only the best picture of each album or video."""
    hybrid: Fusion | None = None
    """Rank by the words of captions as well, and join the two so."""
    rerank: int = 0
    """How many of the nearest to put in order by how likely the model is to say the query."""

    def __post_init__(self) -> None:
        if self.hybrid is None:
            return
        for name, given in (
            ("a least score", self.min_score is not None),
            ("one result for each album", self.one_each_album),
            ("re-ranking", self.rerank > 0),
        ):
            if given:
                raise ConfigError(
                    f"{name} goes by the cosine, and a hybrid search has a score of another kind: "
                    "leave one of them out"
                )


def find(engine: SearchEngine, terms: Sequence[Term], wish: Wish) -> list[Hit]:
    """Searches for terms as wished.

    Raises:
        SearchError: The collection cannot answer, or the query lacks what the wish needs.
        DataError: A picture cannot be read.
    """
    check_terms(terms)
    texts: dict[str, float] = {}
    for term in terms:
        if term.text is not None:
            texts[term.text] = texts.get(term.text, 0.0) + term.weight
    if wish.hybrid is not None:
        return search_hybrid(
            engine,
            word_search(engine.index),
            " ".join(text for text, weight in texts.items() if weight > 0),
            terms=terms,
            fusion=wish.hybrid,
            k=wish.k,
            filter=wish.filter,
            offset=wish.offset,
            on=wish.on,
        )
    first = 0 if wish.rerank else wish.offset
    last = max(wish.rerank, wish.offset + wish.k)
    hits = engine.search(
        terms=terms,
        k=last - first,
        filter=wish.filter,
        offset=first,
        min_score=wish.min_score,
        on=wish.on,
        one_each_album=wish.one_each_album,
    )
    if not wish.rerank:
        return hits
    if not isinstance(engine.embedder, CaptionScorer):
        raise SearchError("this model writes no captions, so it cannot re-rank by them")
    records = engine.index.get(hit.id for hit in hits[: wish.rerank])
    # Without what was removed in this moment.
    first_few = [hit for hit in hits[: wish.rerank] if hit.id in records]
    pictures = _pictures_of(first_few, records)
    hits = reranked(first_few, pictures, texts, engine.embedder) + hits[wish.rerank :]
    return hits[wish.offset : wish.offset + wish.k]


def _pictures_of(hits: Sequence[Hit], records: Mapping[str, Record]) -> list[bytes]:
    """The pictures of hits, read again from wherever they stand."""
    read = PathReader()
    # By path, so that each tar or video is gone through once.
    found = {id: picture_of(records[id], read) for _, id in sorted((h.path, h.id) for h in hits)}
    return [found[hit.id] for hit in hits]


def _model_of(info: CollectionInfo, fallback: Callable[[], str | Path | None] | None) -> str | Path:
    try:
        return model_of(info)
    except ModelError:
        if fallback is not None and (named := fallback()) is not None:
            return named
        raise

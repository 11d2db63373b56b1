"""Mining workflows: select training subsets of a collection, and find near-duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ConfigError, SearchError
from coca.core.files.local_files import read_file
from coca.predict.predictor import Predictor
from coca.processing.image_file import read_image
from coca.search.filters import NOT_HIDDEN
from coca.search.ingest.photo_metadata import read_header
from coca.search.mining.duplicates import KEPT_PAIRS, Duplicates, near_duplicates
from coca.search.mining.images import Compared, Images, read_images
from coca.search.mining.selection import choose, entropy, similarity
from coca.search.mining.zero_shot import read_classes
from coca.search.perceptual_hash import DECODED_SIDE, perceptual_hash, stacked
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import Term
from coca.search.records import check_same_model
from coca.search.search_options import Choice
from coca.search.store import Collection
from coca.workflows.collections.class_prompts import check_classes_model
from coca.workflows.collections.subset import Subset, check_out, write_subset


@dataclass(frozen=True, kw_only=True)
class Mining:
    """Selection criteria; at most one of `terms`, `examples` and `uncertain_among` is set."""

    terms: Sequence[Term] = ()
    """Select the images nearest to a query."""
    examples: Sequence[str | Path] = ()
    """Select the images nearest to any of these images."""
    uncertain_among: Collection | None = None
    """Select the images with the highest entropy over these classes."""
    filter: str = ""
    """Filter expression; default: none."""
    away_from: Sequence[str | Path] = ()
    """Images whose near-duplicates are excluded, such as a test set."""

    def __post_init__(self) -> None:
        given = [bool(self.terms), bool(self.examples), self.uncertain_among is not None]
        if sum(given) > 1:
            raise ConfigError("choose by a query, by examples, or by uncertainty: give one of them")

    @property
    def gives_scores(self) -> bool:
        """Whether the criterion ranks images."""
        return bool(self.terms or self.examples or self.uncertain_among)


def mine(
    collection: Collection,
    predictor: Predictor,
    mining: Mining,
    choice: Choice,
    out: str | Path,
    *,
    model_captions: bool = False,
) -> Subset:
    """Select images of a collection, and write them as a data source for training.

    Returns:
        Counts of the written images, and the selected images that are unreadable.

    Raises:
        ConfigError: `out` is an invalid name, or `min_score` is set without a criterion that
            gives scores, or is above 1 for a criterion that gives cosines.
        SearchError: The collection or the classes were filled by another model, there is no class,
            no image is left to select, or none can be written.
        DataError: An example image cannot be read.
    """
    check_out(out)
    if choice.min_score is not None and not mining.gives_scores:
        raise ConfigError(
            f"a minimum score of {choice.min_score:g} needs scores, which a query, examples or "
            "uncertainty give: name one of them, or leave the minimum score out"
        )
    if choice.min_score is not None and mining.uncertain_among is None and choice.min_score > 1:
        raise ConfigError(f"min_score must be a cosine in [-1, 1] here, got {choice.min_score:g}")
    engine = SearchEngine(predictor, collection)
    if mining.uncertain_among is not None:
        check_classes_model(mining.uncertain_among.info, predictor)
    images = read_images(collection, mining.filter)
    scores = _scores(engine, predictor, mining, images.vectors)
    away = predictor.embed_images(list(mining.away_from)) if mining.away_from else None
    chosen = choose(images.vectors, choice, scores=scores, away_from=away)
    given = {images.ids[row]: 0.0 if scores is None else float(scores[row]) for row in chosen}
    if not given:
        total = collection.count(NOT_HIDDEN)
        raise SearchError(_nothing_left(total, len(images.ids), scores, choice))
    return write_subset(out, collection, given, model_captions=model_captions)


def find_duplicates(
    collection: Collection,
    *,
    others: Sequence[str | Path] = (),
    predictor: Predictor | None = None,
    keep: int = KEPT_PAIRS,
) -> tuple[Duplicates, Images]:
    """Find the near-duplicates among the images of a collection, and the images of their rows.

    Raises:
        SearchError: Another model filled the collection.
        DataError: One of `others` cannot be read.
    """
    apart = None
    if others:
        assert predictor is not None, "other images need the model"
        check_same_model(
            collection.info, fingerprint=predictor.fingerprint, embed_dim=predictor.embed_dim
        )
        vectors = predictor.embed_images(list(others))
        hashes, sizes = [], []
        for path in others:
            data = read_file(str(path))
            header = read_header(data)
            hashes.append(perceptual_hash(read_image(data, at_least=DECODED_SIDE)))
            sizes.append((header.width, header.height))
        apart = Compared(vectors=vectors, hashes=stacked(hashes), sizes=np.array(sizes, np.int64))
    images = read_images(collection)
    found = near_duplicates(images, apart, ranks=images.ranks, keep=keep)
    return found, images


def _scores(
    engine: SearchEngine,
    predictor: Predictor,
    mining: Mining,
    vectors: Float32[np.ndarray, "N E"],
) -> Float32[np.ndarray, " N"] | None:
    if mining.terms:
        return vectors @ engine.query_vector(mining.terms)
    if mining.examples:
        return similarity(vectors, predictor.embed_images(list(mining.examples)))
    if mining.uncertain_among is not None:
        _, classes = read_classes(mining.uncertain_among)
        return entropy(vectors, classes, logit_scale=predictor.logit_scale)
    return None


def _nothing_left(
    total: int, filtered: int, scores: Float32[np.ndarray, " N"] | None, choice: Choice
) -> str:
    """Return the reason why no image was selected."""
    if not total:
        return "the collection has only hidden images, so there is nothing to choose"
    if not filtered:
        return f"none of {total:,} images fulfils the filter, so nothing is written"
    if scores is not None and choice.min_score is not None and scores.max() < choice.min_score:
        return (
            f"none of {filtered:,} images has a score of {choice.min_score:g} or more, the best "
            f"has {scores.max():.3f}, so nothing is written"
        )
    return "all candidates are near-duplicates of images to avoid, so nothing is written"

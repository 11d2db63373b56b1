from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float

from coca.core.errors import SearchError
from coca.search.milvus.collection import Collection
from coca.search.milvus.schema import CollectionSettings
from coca.search.query.rerank import RescoredIndex, reranked
from coca.search.query.searchable import Searchable
from coca.search.records import Hit, Record
from coca.search.vector_encoding import VectorEncoding


class Scorer:
    """Caption scorer whose log-probabilities are in the image files."""

    logit_scale = 10.0

    def score(self, images: Sequence[Any], texts: Sequence[str]) -> Float[np.ndarray, "N M"]:
        return np.array(
            [[-float(Path(image).read_text()) - len(t) for t in texts] for image in images]
        )


def hits(folder: Path, *likely: float) -> list[Hit]:
    for n, nats in enumerate(likely):
        (folder / f"{n}.txt").write_text(str(nats))
    return [
        Hit(id=f"{n}", score=1 - n / 10, path=str(folder / f"{n}.txt"), caption="", metadata={})
        for n in range(len(likely))
    ]


def again(given: list[Hit], texts: dict[str, float]) -> list[Hit]:
    return reranked(given, [hit.path for hit in given], texts, Scorer())


def test_cosine_and_likelihood_are_added_by_hand(tmp_path: Path) -> None:
    # Joint: 10 - 5, 9 - 1, 8 - 8.
    order = again(hits(tmp_path, 5.0, 1.0, 8.0), {"": 1.0})
    assert [hit.id for hit in order] == ["1", "0", "2"]
    assert [hit.score for hit in order] == [0.9, 1.0, 0.8]
    assert [hit.log_likelihood for hit in order] == [-1, -5, -8]
    assert [hit.rank_score for hit in order] == [8, 5, 0]


def test_a_text_that_no_image_matches_better_changes_nothing(tmp_path: Path) -> None:
    given = hits(tmp_path, 2.0, 2.0, 2.0)
    assert [hit.id for hit in again(given, {"ab": 1.0, "c": 0.5})] == ["0", "1", "2"]
    assert again([], {"ab": 1.0}) == []


def test_a_weight_below_0_prefers_captions_without_the_term(tmp_path: Path) -> None:
    order = again(hits(tmp_path, 0.0, 9.0), {"": -1.0})
    assert [hit.id for hit in order] == ["1", "0"]


def test_re_ranking_needs_a_text(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="add a text"):
        again(hits(tmp_path, 0.0, 1.0), {})


MakeIndex = Callable[..., Collection]
MakeRecord = Callable[..., Record]


@pytest.fixture
def pair(make_record: MakeRecord, tmp_path: Path) -> tuple[Collection, Collection]:
    """Build a collection of 4 dimensions, and the whole one."""
    records = [make_record(str(n), metadata={"n": n}) for n in range(80)]
    opened = []
    for name, form in (("small", VectorEncoding(dimensions=4)), ("whole", VectorEncoding())):
        opened.append(
            Collection.open(
                str(tmp_path / f"{name}.db"),
                embed_dim=16,
                fingerprint="model-one",
                create=True,
                settings=CollectionSettings(encoding=form),
            )
        )
        opened[-1].upsert(records)
    return opened[0], opened[1]


def test_hits_are_ranked_as_by_whole_vectors(
    pair: tuple[Collection, Collection], make_record: MakeRecord
) -> None:
    small, whole = pair
    rescored = RescoredIndex(small, whole)
    assert isinstance(rescored, Searchable)
    queries = np.stack([make_record(f"query {n}").vector for n in range(5)])
    exact = whole.search(queries, 10)
    assert [[hit.id for hit in hits] for hits in small.search(queries, 10)] != [
        [hit.id for hit in hits] for hits in exact
    ]
    found = rescored.search(queries, 10)
    assert [[hit.id for hit in hits] for hits in found] == [
        [hit.id for hit in hits] for hits in exact
    ]
    for one, other in zip(found[0], exact[0], strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-6)
    pages = [rescored.search(queries[:1], 4, offset=start)[0] for start in (0, 4)]
    assert [hit.id for page in pages for hit in page] == [hit.id for hit in found[0][:8]]
    least = found[0][4].score
    assert len(rescored.search(queries[:1], 10, min_score=least - 1e-6)[0]) == 5
    assert np.array_equal(rescored.get(["3"])["3"].vector, whole.get(["3"])["3"].vector)


def test_hits_that_only_the_smaller_collection_has_keep_their_score(
    pair: tuple[Collection, Collection], make_record: MakeRecord
) -> None:
    small, whole = pair
    whole.delete(["7"])
    query = make_record("7").vector[np.newaxis]
    hits = {hit.id: hit for hit in RescoredIndex(small, whole).search(query, 80)[0]}
    before = {hit.id: hit for hit in small.search(query, 80)[0]}
    assert hits["7"] == before["7"]
    assert RescoredIndex(small, whole).get(["7"])["7"] == small.get(["7"])["7"]


def test_another_model_is_refused(pair: tuple[Collection, Collection], tmp_path: Path) -> None:
    with (
        Collection.open(
            str(tmp_path / "b.db"), embed_dim=16, fingerprint="other", create=True
        ) as other,
        pytest.raises(SearchError, match="filled by model other"),
    ):
        RescoredIndex(pair[0], other)

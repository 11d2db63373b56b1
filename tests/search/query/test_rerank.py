from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float

from coca.core.errors import SearchError
from coca.search.query.rerank import reranked
from coca.search.records import Hit


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
    cosines = [hit.score for hit in given]
    return reranked(given, [hit.path for hit in given], texts, Scorer(), cosines=cosines)


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

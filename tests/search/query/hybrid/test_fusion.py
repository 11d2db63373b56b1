import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ConfigError
from coca.search.query.hybrid.fusion import Fusion, fuse
from coca.search.records import Hit


def ranking(**scores: float) -> list[Hit]:
    return [
        Hit(id=id, score=score, path=f"{id}.jpg", caption="", metadata={})
        for id, score in sorted(scores.items(), key=lambda item: -item[1])
    ]


# Numbers only: type checks of hits draw random samples, which a strategy must not.
SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-9, 50).map(float), max_size=8)
FUSIONS = st.builds(Fusion, method=st.sampled_from(["rrf", "scores"]), constant=st.integers(1, 90))


def test_reciprocal_ranks_by_hand() -> None:
    vectors, words = ranking(a=0.9, b=0.8, c=0.1), ranking(c=12.0, a=3.0)
    fused = fuse([vectors, words], [0.5, 0.5], Fusion(method="rrf"))
    assert [hit.id for hit in fused] == ["a", "c", "b"]
    by_hand = [0.5 / 61 + 0.5 / 62, 0.5 / 63 + 0.5 / 61, 0.5 / 62]
    assert [hit.fused_score for hit in fused] == pytest.approx(by_hand)
    assert [hit.score for hit in fused] == [0.9, 0.1, 0.8]


def test_scores_by_hand() -> None:
    vectors, words = ranking(a=0.9, b=0.5, c=0.1), ranking(c=12.0, a=3.0)
    fused = fuse([vectors, words], [0.75, 0.25], Fusion())
    assert {hit.id: hit.fused_score for hit in fused} == pytest.approx(
        {"a": 0.75, "b": 0.375, "c": 0.25}
    )


def test_a_caption_with_some_of_the_words_gets_this_part_of_the_last_ranking() -> None:
    vectors, words = ranking(a=0.9, b=0.5, c=0.1), ranking(c=12.0, b=9.0, a=3.0)
    share = {"a": 1.0, "b": 0.5, "c": 0.5}
    fused = fuse([vectors, words], [0.75, 0.25], Fusion(), coverage=lambda hit: share[hit.id])
    assert {hit.id: hit.fused_score for hit in fused} == pytest.approx(
        {"a": 0.75, "b": 0.375 + 0.25 * 0.5 * 6 / 9, "c": 0.25 * 0.5}
    )
    by_rank = Fusion(method="rrf")
    fused = fuse([vectors, words], [0.75, 0.25], by_rank, coverage=lambda hit: share[hit.id])
    assert fused == fuse([vectors, words], [0.75, 0.25], by_rank)


def test_an_image_without_a_caption_is_ranked_by_its_image_alone() -> None:
    images, captions = ranking(a=0.9, b=0.5, c=0.1), ranking(c=12.0, a=9.0, d=8.0, b=2.0)
    fusion = Fusion(uncaptioned=0.5)
    fused = fuse([images, captions], [0.25, 0.75], fusion, has_all=lambda hit: hit.id not in "ad")
    # `d` has no caption either, so the captions do not find it.
    assert {hit.id: hit.fused_score for hit in fused} == pytest.approx(
        {"a": 0.25 + 0.5 * 0.75, "b": 0.25 * 0.5, "c": 0.75}
    )
    alone = fuse([images, captions], [0.25, 0.75], fusion, has_all=lambda hit: False)
    assert [hit.id for hit in alone] == [hit.id for hit in images]


@given(SCORES, FUSIONS)
def test_a_ranking_joined_with_nothing_keeps_its_order(
    scores: dict[str, float], fusion: Fusion
) -> None:
    one = ranking(**scores)
    for other, weights in (([], [0.5, 0.5]), (one[::-1], [1.0, 0.0])):
        fused = fuse([one, other], weights, fusion)
        assert {hit.id for hit in fused} == {hit.id for hit in one}
        scores = {hit.id: hit.score for hit in one}
        assert [scores[hit.id] for hit in fused] == sorted(scores.values(), reverse=True)


@given(SCORES, SCORES, FUSIONS)
def test_all_hits_are_kept_once_and_the_order_of_rankings_does_not_matter(
    scores: dict[str, float], others: dict[str, float], fusion: Fusion
) -> None:
    one, other = ranking(**scores), ranking(**others)
    fused = fuse([one, other], [0.5, 0.5], fusion)
    assert len(fused) == len({hit.id for hit in [*one, *other]})
    turned = fuse([other, one], [0.5, 0.5], fusion)
    fused_scores = [(hit.id, hit.fused_score) for hit in fused]
    assert [(hit.id, hit.fused_score) for hit in turned] == fused_scores


@given(SCORES, FUSIONS)
def test_only_the_scale_of_scores_may_differ(scores: dict[str, float], fusion: Fusion) -> None:
    one = ranking(**scores)
    louder = [Hit(id=h.id, score=4 * h.score, path=h.path, caption="", metadata={}) for h in one]
    before, after = (fuse([hits], [1.0], fusion) for hits in (one, louder))
    assert [hit.id for hit in after] == [hit.id for hit in before]
    assert [hit.fused_score for hit in after] == pytest.approx([hit.fused_score for hit in before])


@pytest.mark.parametrize(
    "wrong", [{"text_weight": 1.5}, {"text_weight": math.nan}, {"constant": 0}]
)
def test_a_fusion_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} must be a "):
        Fusion(**wrong)  # type: ignore[arg-type]

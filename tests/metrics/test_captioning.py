"""Caption scores are the official ones, on real captions and on random words."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coca.metrics.caption_metrics import bleu, caption_scores, cider, rouge_l, words
from developer_data import sample_file

OFFICIAL = "metrics/coco_fakecap_126.json"


# Few words, so that runs of four are often shared.
sentences = st.lists(st.sampled_from("abcde"), min_size=1, max_size=9)
corpora = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3)), min_size=1)


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    path = sample_file(OFFICIAL, "comparison with the official scores of 126 captions")
    return json.loads(path.read_text())


def test_the_scores_of_126_real_captions_are_the_official_ones(official: dict[str, Any]) -> None:
    keys = list(official["refs"])
    found = caption_scores(
        [words(official["cands"][key]) for key in keys],
        [[words(reference) for reference in official["refs"][key]] for key in keys],
    )
    names = {"CIDEr": "cider", "ROUGE_L": "rouge_l"} | {
        f"Bleu_{n}": f"bleu@{n}" for n in range(1, 5)
    }
    for theirs, ours in names.items():
        assert found[ours] == pytest.approx(official["scores"][theirs], abs=1e-9), theirs


def test_cider_of_each_single_caption_is_the_official_one(official: dict[str, Any]) -> None:
    keys = list(official["refs"])
    found = cider(
        [official["tok_cands"][key].split() for key in keys],
        [[reference.split() for reference in official["tok_refs"][key]] for key in keys],
    )
    wanted = [official["cider_per_image"][key] for key in keys]
    np.testing.assert_allclose(found, wanted, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(corpora)
def test_any_words_score_as_with_pycocoevalcap(corpus: list[Any]) -> None:
    pytest.importorskip("pycocoevalcap", reason="the oracle, pycocoevalcap, is not installed")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    candidates, references = [list(side) for side in zip(*corpus, strict=True)]
    answers = {n: [" ".join(candidate)] for n, candidate in enumerate(candidates)}
    truth = {n: [" ".join(it) for it in group] for n, group in enumerate(references)}
    official_bleu, _ = Bleu(4).compute_score(truth, answers, verbose=0)
    _, official_cider = Cider().compute_score(truth, answers)
    _, official_rouge = Rouge().compute_score(truth, answers)
    np.testing.assert_allclose(bleu(candidates, references), official_bleu, atol=1e-9)
    np.testing.assert_allclose(cider(candidates, references), official_cider, atol=1e-9)
    np.testing.assert_allclose(rouge_l(candidates, references), official_rouge, atol=1e-9)


def test_an_empty_caption_scores_nothing() -> None:
    references = [["a", "cat"]], [["a", "dog", "runs"]]
    assert bleu([[], []], references) == pytest.approx([0] * 4, abs=1e-6)
    assert rouge_l([[], []], references).tolist() == [0, 0]
    assert cider([[], []], references).tolist() == [0, 0]


def test_words_that_all_images_share_weigh_nothing_for_cider() -> None:
    scores = cider([["a", "dog"], ["a"]], [[["a", "dog"]], [["a", "cat"]]])
    assert scores[0] > 0
    assert scores[1] == 0


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ([], [], "no caption"),
        ([["a"]], [[["a"]], [["b"]]], "1 captions but references for 2"),
        ([["a"], ["b"]], [[["a"]], []], "caption 1 has no reference"),
    ],
)
def test_what_cannot_be_scored_is_named(
    candidates: list[Any], references: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        caption_scores(candidates, references)

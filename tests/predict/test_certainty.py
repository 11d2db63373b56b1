"""Certainty of captions: laws of the judge, and the shipped model on three photos of the demo."""

import math
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

import coca
from coca.core.config.execution import CERTAIN
from coca.predict.certainty import (
    COHERENT,
    INCOHERENT_MOST,
    CaptionJudge,
    Evidence,
    certainty_of,
)
from coca.predict.inputs import Caption
from coca.predict.onnx_predictor import open_exported
from coca.predict.predictor import Predictor
from coca.predict.short_vectors import shorten
from coca.processing.class_words import ClassNoun

NOUNS = (
    ClassNoun(("man", "woman", "people")),
    ClassNoun(("animal",), (0, 1, 2), "an animal"),
    ClassNoun(("passerine", "bird"), (0, 1), "a bird"),
    ClassNoun(("indigo bunting",), (0,)),
    ClassNoun(("crane",), (2, 3), "a crane"),
)
PHOTOS = {
    "a barn": "04546cc5e537d7cd",
    "carbonara": "38287d2e5a4a9a57",  # another meal
}


@pytest.fixture(name="judge")
def _judge() -> CaptionJudge:
    return CaptionJudge(NOUNS, np.eye(4, dtype=np.float32)[0])


@pytest.fixture(name="photos", scope="module")
def _photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder, found = tmp_path_factory.mktemp("photos"), {}
    with ZipFile(Path(str(files("coca.workflows") / "demo" / "photos.zip"))) as archive:
        for text, name in PHOTOS.items():
            (member,) = (it for it in archive.namelist() if name in it)
            found[text] = archive.extract(member, folder)
    return found


@pytest.fixture(name="models", scope="module")
def _models() -> dict[str, Predictor]:
    return {"torch": coca.load("everyday", device="cpu"), "onnx": open_exported("everyday")}


def written(text: str, score: float = -1.0) -> Caption:
    return Caption(text, text, score, token_ids=(1, 2, 3))


def test_the_longest_noun_at_each_place_is_found(judge: CaptionJudge) -> None:
    assert judge.nouns_in("Two indigo buntings, a man and cranes.") == [
        "indigo buntings",
        "man",
        "cranes",
    ]
    assert judge.nouns_in("a drawing of nothing") == []
    assert judge.classes_of("crane") == {2, 3}
    assert judge.is_of_people("man")


def test_a_caption_that_is_only_a_name_has_the_name_that_people_use() -> None:
    nouns = (
        ClassNoun(("hair dryer", "hand blower", "dryer"), (0,), "a hair dryer"),
        ClassNoun(("washer", "dryer"), (1,), "a washing machine"),
        ClassNoun(("machine", "device"), (0, 1), "a machine"),
    )
    judge = CaptionJudge(nouns, np.eye(4, dtype=np.float32)[0])
    texts = ["a hand blower", "a dryer", "a device", "a hand blower on a table", "hand blower"]
    captions = [Caption(it, it, -1.0, (1, 2)) for it in texts]
    ones, rows = np.ones((5, 4), np.float32) / 2, np.full((5, 2), 0.5)
    found = [it.text for it in judge.judged(captions, rows, ones, ones)]
    assert found == ["a hair dryer", *texts[1:4], "a hair dryer"]


@pytest.mark.parametrize(
    ("text", "kind", "mass"),
    [
        ("a bird with a man", "things", 0.75),
        ("an indigo bunting", "things", 0.25),
        ("a man with a bird", "people", None),
        ("a drawing of bird", "others", None),
        ("a blue sky", "others", None),
        ("", "others", None),
    ],
)
def test_the_first_noun_decides_what_counts(
    judge: CaptionJudge, text: str, kind: str, mass: float | None
) -> None:
    likely = np.array([0.25, 0.5, 0.05, 0.2], np.float32)
    found = judge.evidence(written(text), likely, cosine=0.3, people=0.2)
    assert (found.kind, found.cosine, found.people) == (kind, 0.3, 0.2)
    assert found.mean == -0.25  # three tokens and [EOS]
    assert found.mass == pytest.approx(0.0 if mass is None else math.log(mass / (1 - mass)))


@pytest.mark.parametrize("kind", ["things", "people", "others"])
def test_more_evidence_never_makes_a_caption_less_certain(kind: str) -> None:
    least = Evidence(kind, mass=-6.0, cosine=0.0, people=0.0, mean=-3.0)
    for name, steps in {
        "mass": np.linspace(-6, 6, 9),
        "cosine": np.linspace(0, 0.6, 9),
        "people": np.linspace(0, 0.4, 9),
        "mean": np.linspace(-3, 0, 9),
    }.items():
        found = [certainty_of(least._replace(**{name: value})) for value in steps.tolist()]
        assert found == sorted(found)
        assert 0 < found[0] <= found[-1] < 1


def test_words_that_hang_together_badly_are_not_certain() -> None:
    sure = Evidence("things", mass=6.0, cosine=0.3, people=0.0, mean=COHERENT)
    assert certainty_of(sure) > CERTAIN
    assert certainty_of(sure._replace(mean=COHERENT - 0.01)) == INCOHERENT_MOST
    unsure = Evidence("things", mass=-6.0, cosine=0.3, people=0.0, mean=COHERENT - 0.01)
    assert certainty_of(unsure) < 0.1


def test_the_most_special_common_noun_above_a_half_stands_in(judge: CaptionJudge) -> None:
    for likely, noun in {
        (0.9, 0.0, 0.0, 0.1): "a bird",  # an indigo bunting, and a passerine, as nobody says
        (0.2, 0.35, 0.05, 0.4): "a bird",
        (0.2, 0.2, 0.2, 0.4): "a crane",
        (0.25, 0.2, 0.1, 0.05): "an animal",
        (0.1, 0.1, 0.1, 0.1): "",
    }.items():
        assert judge.sure_noun(np.array(likely, np.float32)) == noun


def test_certainties_are_bounded_for_every_probability(judge: CaptionJudge) -> None:
    images = np.eye(4, dtype=np.float32)
    likely = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0]], np.float32)
    found = judge.judged([written("a bird")] * 4, likely, images, images)
    values = [it.certainty or 0.0 for it in found]
    assert all(0 < it < 1 for it in values)
    assert values[1] == values[2] > CERTAIN > values[0] == values[3]


def test_an_uncertain_caption_gives_way_to_the_sure_noun() -> None:
    caption = Caption("a shark", "a shark", -1.0, certainty=0.4, noun="fruit")
    assert caption.certain() == "fruit"
    assert caption.certain(0.4) == "a shark"
    assert replace(caption, noun="").certain() == ""
    assert replace(caption, certainty=None).certain(1.0) == "a shark"


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_the_shipped_model_knows_where_it_is_wrong(
    models: dict[str, Predictor], photos: dict[str, str], kind: str
) -> None:
    model = models[kind]
    barn, food = model.caption(list(photos.values()))
    assert [barn.text, food.text] == list(PHOTOS)
    assert barn.certain() == "a barn"
    assert food.certain() == "a meal"
    prepared = [model.prepare_image(it) for it in photos.values()]
    described = model.describe(prepared)
    assert [one.caption for one in described] == ["a barn", "a meal"]
    assert [one.caption for one in model.describe(prepared, certainty=0.0)] == list(PHOTOS)
    assert [one.nouns[noun] > 50 for one, noun in zip(described, ("barn", "meal"), strict=True)]
    named = model.describe(prepared, captions=False)
    assert [one.nouns for one in named] == [one.nouns for one in described]
    short = shorten(model, 32).caption(list(photos.values()))
    assert [it.certainty for it in short] == [barn.certainty, food.certainty]


def test_both_runtimes_are_equally_certain(
    models: dict[str, Predictor], photos: dict[str, str]
) -> None:
    one, other = (
        [
            (it.certainty, it.noun)
            for best in model.caption(list(photos.values()), num_return_sequences=2)
            for it in (best, *best.others)
        ]
        for model in models.values()
    )
    assert [noun for _, noun in one] == [noun for _, noun in other]
    np.testing.assert_allclose(
        np.array([it for it, _ in one], float), np.array([it for it, _ in other], float), atol=0.01
    )


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_caption_with_a_prompt_has_no_certainty(
    models: dict[str, Predictor], photos: dict[str, str], kind: str
) -> None:
    barn, food = photos.values()
    asked: Any = ["", "a photo of", ""]
    found = models[kind].caption([food, barn, food], prompt=asked)
    assert [it.certainty is None for it in found] == [False, True, False]
    (plain,) = models[kind].caption(food)
    assert found[2].certainty == pytest.approx(plain.certainty, abs=1e-4)

import pytest

from class_words import PEOPLE, class_words, usual_names
from coca.model.encoders.backbone import IMAGENET_CLASSES
from coca.processing.class_words import ClassNoun
from hypernyms import ClassText, OwnNouns


def test_general_nouns_and_people_are_left_out() -> None:
    nouns = [
        {"words": ["animal"], "classes": [*range(151)]},
        {"words": ["canid", "dog", "pet"], "classes": [0, 1]},
        {"words": ["person"], "classes": [2]},
        {"words": ["sport"], "classes": [1, 2]},
        {"words": ["device"], "classes": [1]},
    ]
    classes = [ClassText((name,), "") for name in ("pug", "boxer", "groom")]
    usual = ["pug", "boxer dog", "groom"]
    assert class_words({"nouns": nouns}, classes, usual, alone={"dog", "pet"}) == [
        ClassNoun(tuple(PEOPLE.split())),
        ClassNoun(("canid", "dog"), (0, 1), "a dog"),
        ClassNoun(("pug",), (0,), "a pug"),
        ClassNoun(("boxer dog", "boxer"), (1,), "a boxer dog"),
    ]


def test_every_class_has_one_name_that_people_say() -> None:
    pytest.importorskip("open_clip")
    called = OwnNouns.load().called
    usual = usual_names(called)
    assert len(usual) == IMAGENET_CLASSES
    assert not [name for name in usual if set("/(") & set(name) or " or " in name]
    assert usual[589] == "hair dryer"
    assert set(called).isdisjoint(usual)
    assert set(called) <= set(usual_names({name: name for name in called}))

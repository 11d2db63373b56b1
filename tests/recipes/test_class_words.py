from class_words import PEOPLE, class_words
from coca.processing.class_words import ClassNoun
from hypernyms import ClassText


def test_general_nouns_and_people_are_left_out() -> None:
    nouns = [
        {"words": ["animal"], "classes": [*range(151)]},
        {"words": ["dog", "pet"], "classes": [0, 1]},
        {"words": ["person"], "classes": [2]},
        {"words": ["sport"], "classes": [1, 2]},
        {"words": ["device"], "classes": [1]},
    ]
    classes = [ClassText((name,), "") for name in ("pug", "boxer", "groom")]
    assert class_words({"nouns": nouns}, classes) == [
        ClassNoun(tuple(PEOPLE.split())),
        ClassNoun(("dog",), (0, 1)),
        ClassNoun(("pug",), (0,)),
        ClassNoun(("boxer",), (1,)),
    ]

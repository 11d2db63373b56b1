from pathlib import Path

import pytest

from coca.core.errors import DataError
from hypernyms import ClassText, OwnNouns, as_json, class_synsets, typed_nouns
from wordnet import WordNet, read_wordnet

NOUNS = """\
00000001 03 n 01 entity 0 000 | that which exists
00000002 05 n 02 dog 0 domestic_dog 0 001 @ 00000001 n 0000 | a tame animal
00000003 06 n 01 toy 0 001 @ 00000001 n 0000 | an artifact to play with
00000004 05 n 01 toy 0 001 @ 00000002 n 0000 | a very small dog
00000005 05 n 01 pug 0 001 @ 00000004 n 0000 | a small dog with a flat face
00000006 05 n 01 Dobermann 0 001 @ 00000002 n 0000 | a German dog with a black and tan coat
00000007 06 n 01 doll 0 001 @ 00000003 n 0000 | a small replica of a person; a toy
00000008 18 n 01 doll 0 001 @ 00000001 n 0000 | an attractive person
00000009 06 n 01 blue_jeans 0 001 @ 00000001 n 0000 | trousers of denim
"""
SENSES = """\
dog%1:05:00:: 00000002 1 42
toy%1:06:00:: 00000003 1 29
toy%1:05:00:: 00000004 2 0
"""
WORDS = ["toy", "dog", "domestic", "entity", "pet", "carlin"]
CLASSES = [
    ClassText(("pug", "carlin"), "a small dog with flat face"),
    ClassText(("dobermann", "doberman"), "a German dog with a black and tan coat"),
    ClassText(("doll", "carlin"), "a small replica of a person"),
    ClassText(("jean", "blue jeans"), "(plural) trousers of denim"),
]
OWN = OwnNouns(frozenset(["entity"]), frozenset(), {"pet": ("dog",), "doberman": ("pug",)})


@pytest.fixture
def source(tmp_path: Path) -> WordNet:
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "data.noun").write_text(NOUNS, encoding="utf-8")
    (tmp_path / "dict" / "index.sense").write_text(SENSES, encoding="utf-8")
    return read_wordnet(tmp_path)


def test_a_class_is_found_by_its_words_and_its_gloss(source: WordNet) -> None:
    found = class_synsets(CLASSES, source.nouns)
    assert found == ["00000005", "00000006", "00000007", "00000009"]
    with pytest.raises(DataError, match="'bow, arc' was not found in WordNet"):
        class_synsets([ClassText(("bow", "arc"), "a weapon")], source.nouns)


@pytest.mark.parametrize(("rare", "toys"), [([], {2: 1}), (["toy"], {0: 1, 2: 1})])
def test_rare_senses_and_abstract_words_do_not_count(
    source: WordNet, rare: list[str], toys: dict[int, int]
) -> None:
    own = OwnNouns(OWN.dropped, frozenset(rare), OWN.added)
    nouns = typed_nouns(CLASSES, source, WORDS, own, {"dog": ["Hund"]})
    dogs = {0: 2, 1: 1}
    by_words = {noun.words: (noun.german, noun.depths) for noun in nouns}
    assert by_words == {
        ("dog", "domestic dog"): (("Hund",), dogs),
        ("pet",): ((), {0: 3, 1: 2}),
        ("doberman",): ((), {0: 1, 1: 0}),
        ("toy",): ((), toys),
        ("carlin",): ((), {0: 0, 2: 0}),
    }
    tables = as_json(nouns, len(CLASSES))
    pairs = {(c, n) for c, row in enumerate(tables["classes"]) for n, _ in row}
    assert pairs == {(c, n) for n, row in enumerate(tables["nouns"]) for c in row["classes"]}


def test_words_that_refer_to_nothing_are_errors(source: WordNet) -> None:
    with pytest.raises(DataError, match="German words translate cat"):
        typed_nouns(CLASSES, source, WORDS, OWN, {"cat": ["Katze"]})
    wrong = OwnNouns(frozenset(), frozenset(), {"pet": ("hamster",)})
    with pytest.raises(DataError, match="'hamster' below 'pet'"):
        typed_nouns(CLASSES, source, WORDS, wrong, {})

from pathlib import Path

import pytest

from common_words import common_words, visible_fractions
from wordnet import WordNet, read_wordnet

NOUNS = """\
  1 This is the licence.
00000001 07 n 01 color 0 000 | a visual attribute
00000002 07 n 02 chromatic_color 0 hue 0 001 @ 00000001 n 0000 | a color
00000003 07 n 01 crimson 0 001 @ 00000002 n 0000 | a deep red
00000004 18 n 01 Ada 0 001 @i 00000005 n 0000 | a mathematician
00000005 18 n 01 mathematician 0 000 | a person
"""
SENSES = """\
ada%1:18:00:: 00000004 1 3
car%1:06:00:: 00000010 1 71
crimson%1:07:00:: 00000003 1 0
crimson%5:00:00:red:00 00000011 1 2
fly%1:05:00:: 00000012 1 2
fly%2:38:00:: 00000013 1 20
fly%2:41:00:: 00000014 2 5
idea%1:09:00:: 00000015 1 50
mathematician%1:18:00:: 00000005 1 1
pony%1:05:00:: 00000016 1 0
run%2:38:00:: 00000017 1 90
run%1:04:00:: 00000018 1 80
bank%1:14:00:: 00000019 1 20
bank%1:17:00:: 00000020 2 15
"""


@pytest.fixture
def source(tmp_path: Path) -> WordNet:
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "data.noun").write_text(NOUNS, encoding="utf-8")
    (tmp_path / "dict" / "index.sense").write_text(SENSES, encoding="utf-8")
    return read_wordnet(tmp_path)


def test_words_are_visible_by_the_use_of_their_senses(source: WordNet) -> None:
    fractions = visible_fractions(source)
    assert fractions["car"] == 1
    assert fractions["idea"] == 0
    assert fractions["fly"] == pytest.approx(23 / 28.1)
    assert fractions["bank"] == pytest.approx(15.1 / 35.6)


def test_general_words_come_first_then_visible_words_in_their_forms(source: WordNet) -> None:
    words = ["idea", "of", "bank", "ada", "cars", "ponies", "running", "flying", "u.s.", "crimson"]
    assert common_words(words, source, count=99, general=2) == [
        *("idea", "of", "cars", "ponies", "running", "flying", "crimson"),
    ]
    assert common_words(words, source, count=3, general=0) == ["cars", "ponies", "running"]

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ModelError
from coca.processing.caption_words import WITHHELD, WITHHELD_GROUPS, CaptionWords, words_of
from coca.processing.class_words import ClassNoun


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog, running.", ["A", "dog", "running"]),
        ('a sign "stop!" (red)', ["a", "sign", "stop", "red"]),
        ("a man 's t-shirt", ["a", "man", "'s", "t-shirt"]),
        ("the lady's hat", ["the", "lady's", "hat"]),
        ("- . 'n' \u2026 \u00ab", ["'n"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", ["\u0939\u093f\u0928\u094d\u0926\u0940"]),
        ("", []),
    ],
)
def test_words_are_between_spaces_and_without_outer_punctuation(
    text: str, words: list[str]
) -> None:
    assert list(words_of(text)) == words


@given(st.text())
def test_a_word_is_one_word(text: str) -> None:
    for word in words_of(text):
        assert list(words_of(word)) == [word]


def test_saved_words_are_loaded_with_their_marks(tmp_path: Path) -> None:
    nouns = (ClassNoun(("dog", "domestic dog"), (1, 2)),)
    words = replace(CaptionWords.of(["dog", "naked", "caf\u00e9", "t-shirt"]), nouns=nouns)
    words.save(tmp_path / "words.txt")
    lines = (tmp_path / "words.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["caf\u00e9", "dog", "!naked", "t-shirt"]
    assert CaptionWords.load(tmp_path / "words.txt") == words


def test_a_list_has_the_words_of_its_nouns() -> None:
    nouns = (
        ClassNoun(("people",)),
        ClassNoun(("hair dryer", "hand blower"), (589,), "a hair dryer"),
        ClassNoun(("american robin",), (15,), "a robin"),
    )
    words = CaptionWords.of(["dog"]).with_nouns(nouns)
    assert words.nouns == nouns
    named = {"people", "hand", "blower", "hair", "dryer", "american", "robin"}
    assert words.words == named | {"dog"}
    assert words.withheld == {"american"}


def test_a_file_of_another_system_is_read(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"dog\r\n\r\n!cat\r\n")
    assert CaptionWords.load(tmp_path / "words.txt") == CaptionWords(
        frozenset({"dog", "cat"}), frozenset({"cat"})
    )


def test_a_folder_without_the_file_has_no_list(tmp_path: Path) -> None:
    assert CaptionWords.load(tmp_path / "words.txt") is None


@pytest.mark.parametrize("content", [b"a dog", b"dog\n!!cat", b"dog,", b"\xff"])
def test_a_line_that_is_not_a_word_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(ModelError, match=r"words\.txt"):
        CaptionWords.load(tmp_path / "words.txt")


def test_withheld_words_are_chosen_on_request_only() -> None:
    words = CaptionWords.of(["dog", "ugly"])
    assert words.chosen("polite") == ["dog"]
    assert words.chosen("listed") == ["dog", "ugly"]


def test_a_word_that_one_of_two_lists_withholds_is_withheld_in_both() -> None:
    both = CaptionWords(frozenset({"a", "b"}), frozenset({"b"})) | CaptionWords(frozenset({"b"}))
    assert both == CaptionWords(frozenset({"a", "b"}), frozenset({"b"}))


def test_the_withheld_words_are_single_words_and_listed_once() -> None:
    listed = " ".join(WITHHELD_GROUPS.values()).split()
    assert len(listed) == len(WITHHELD)
    assert [word for word in listed if list(words_of(word)) != [word]] == []

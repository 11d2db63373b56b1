"""Query terms of a command line, with weights."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.cli.options.query_arguments import parse_arguments, parse_terms
from coca.core.errors import ConfigError
from coca.search.query.query_terms import MAX_WEIGHT, Term

WEIGHTS = st.floats(0.01, MAX_WEIGHT).map(lambda weight: round(weight, 3))


@given(
    texts=st.lists(
        st.tuples(st.text(min_size=1).filter(str.strip), WEIGHTS), min_size=2, max_size=5
    ),
    away=st.booleans(),
)
def test_a_weight_behind_the_last_colon_is_read_for_any_text(
    texts: list[tuple[str, float]], away: bool
) -> None:
    last = len(texts) - 1
    signed = [
        (text, -weight if away and n == last else weight) for n, (text, weight) in enumerate(texts)
    ]
    terms = parse_terms([f"{text}:{weight}" for text, weight in signed])
    assert [(term.text, term.weight) for term in terms] == [
        (text.strip(), weight) for text, weight in signed
    ]


def test_a_text_without_a_number_behind_a_colon_has_the_weight_1() -> None:
    for text in ("red car", "title: the sea", "a:b", "ratio 4:3 image", "a photo:"):
        assert parse_terms([text]) == [Term(text=text)]


def test_images_have_weights_and_a_file_that_is_called_so_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_terms(["x"], ["a.jpg:0.5"])[1] == Term(image="a.jpg", weight=0.5)
    Path("a.jpg:0.5").touch()
    assert parse_terms([], ["a.jpg:0.5"]) == [Term(image="a.jpg:0.5")]


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ([], "nothing to search for"),
        (["  "], "nothing to search for"),
        ([":2", "x"], "nothing to search for in ':2'"),
        (["car:0", "x"], r"weight of .car:0. must be in \[-10, 10\] and not 0, got 0"),
        (["half past 12:30", "x"], r"write 'half past 12:30:1'"),
        (["ratio 4:3"], r"write 'ratio 4:3:1'"),
        (["car:0,5", "x"], "'0,5' in 'car:0,5' is not a number"),
        (["car:50%", "x"], "is not a number"),
        (["car:nan", "x"], "is not a number"),
        (["car:-1", "night:-2"], "add one above 0"),
        (["night:-0.3"], "single term"),
    ],
)
def test_terms_that_make_no_sense_are_refused_by_one_sentence(
    texts: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_terms(texts)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the images `a.jpg` and `my photo.png`, and other files."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "my photo.png", "clip.mp4", "notes.txt"):
        Path(name).touch()
    Path("dog").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "terms"),
    [
        ("a dog", [Term(text="a dog")]),
        ("dog", [Term(text="dog")]),
        ("notes.txt", [Term(text="notes.txt")]),
        ("what? a:b", [Term(text="what? a:b")]),
        ("a dog night:-0.3", [Term(text="a dog"), Term(text="night", weight=-0.3)]),
        ("car:2 a dog", [Term(text="car", weight=2.0), Term(text="a dog")]),
        ("a.jpg", [Term(image="a.jpg")]),
        ("a.jpg:0.5 a dog", [Term(image="a.jpg", weight=0.5), Term(text="a dog")]),
    ],
)
def test_words_without_a_weight_are_one_text_and_image_files_are_images(
    photos: Path, words: str, terms: list[Term]
) -> None:
    assert parse_arguments(words.split(" ")) == terms


def test_quoted_words_and_options_join_the_arguments(photos: Path) -> None:
    assert parse_arguments(["my photo.png"]) == [Term(image="my photo.png")]
    assert parse_arguments(["red car", "night:-0.3"]) == parse_terms(["red car", "night:-0.3"])
    assert parse_arguments(["a", "dog"], ["x", "y:2"], ["a.jpg"]) == [
        Term(text="a dog"),
        *parse_terms(["x", "y:2"], ["a.jpg"]),
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("b.jpg", "b.jpg does not exist; to search for the text, use --text b.jpg"),
        ("b.jpg:0.5 dog", "b.jpg does not exist;"),
        ("photo of b.jpg file", "use --text 'photo of b.jpg file'"),
        ("clip.mp4 at night", "use --text 'clip.mp4 at night'"),
        ("my photo.png", "for 'my photo.png' quote the name"),
        ("https://x.org/a.jpg", "download it"),
        ("dog/", "`coca index dog/`"),
        ("clip.mp4", "is a video"),
        ("ratio 4:3", "write 'ratio 4:3:1' in quotes"),
        ("dog:0.5", "single term"),
        ("a dog:0", "must be in"),
    ],
)
def test_a_path_or_a_ratio_that_is_not_a_term_is_refused_with_its_remedy(
    photos: Path, words: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        parse_arguments(words.split(" "))

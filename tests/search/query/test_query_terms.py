"""Query texts: their forms, and terms with weights."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ConfigError, SearchError
from coca.search.query.query_terms import (
    MAX_WEIGHT,
    Term,
    direction,
    embed_queries,
    name_emoji,
    parse_arguments,
    parse_terms,
    query_forms,
)


def embedded(texts: Sequence[str]) -> np.ndarray:
    """Embed texts as vectors of length 1, by the bytes of each."""
    rows = [np.random.default_rng([*text.encode()]).normal(size=8) for text in texts]
    return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


@pytest.mark.parametrize(
    ("typed", "content"),
    [
        ("a dog", "dog"),
        ("The dog.", "dog"),
        ("dog!", "dog"),
        ("a dog runs on the wide beach", "dog runs wide beach"),
        ("t-shirt, and a hat", "t-shirt hat"),
        ("Café de Paris", "Café de Paris"),
    ],
)
def test_a_text_is_embedded_as_typed_and_without_stop_words(typed: str, content: str) -> None:
    assert query_forms(typed) == list(dict.fromkeys([typed, content]))
    (found,) = embed_queries(embedded, [typed])
    mean = embedded(query_forms(typed)).mean(axis=0)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), rtol=1e-6)


SINGULARS = (
    "dogs:dog horses:horse houses:house buses:bus boxes:box beaches:beach dishes:dish cars:car "
    "puppies:puppy flies:fly ties:tie cookies:cookie potatoes:potato shoes:shoe toes:toe "
    "tacos:taco kisses:kiss viruses:virus knives:knife gloves:glove women:woman trees:tree"
)
UNCHANGED = (
    "glasses grass tennis bus scissors gas yes red octopus s es news Texas lens Mars species "
    "Mercedes cosmos chaos Athens"
)


@pytest.mark.parametrize("pair", SINGULARS.split())
def test_the_last_word_is_searched_in_the_singular_as_well(pair: str) -> None:
    plural, one = pair.split(":")
    assert query_forms(plural) == [plural, one]
    assert query_forms(f"the red {plural}") == [f"the red {plural}", f"red {plural}", f"red {one}"]
    assert query_forms(f"two big red {plural}") == [f"two big red {plural}"]


@pytest.mark.parametrize("word", UNCHANGED.split())
def test_words_that_only_look_like_plurals_are_unchanged(word: str) -> None:
    assert query_forms(word) == [word]


@pytest.mark.parametrize("typed", ["dog", "", "a", "?", "the", "to be or not to be", "12:30"])
def test_a_text_without_stop_words_or_of_nothing_else_stays_as_typed(typed: str) -> None:
    assert query_forms(typed) == [typed]
    np.testing.assert_array_equal(embed_queries(embedded, [typed]), embedded([typed]))


@pytest.mark.parametrize(
    ("typed", "searched"),
    [
        ("\N{DOG FACE}", "dog face"),
        ("a \N{SOCCER BALL}\N{VARIATION SELECTOR-16}", "a soccer ball"),
        ("\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}", "red heart"),
        ("\N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}", "thumbs up sign"),
        ("\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}", "woman rocket"),
        ("a man with a \N{TOP HAT} on the beach", "a man with a top hat on the beach"),
    ],
)
def test_emoji_are_searched_by_name(typed: str, searched: str) -> None:
    assert name_emoji(typed) == searched


@given(st.text())
def test_a_text_without_emoji_is_not_changed(text: str) -> None:
    named = name_emoji(text)
    assert name_emoji(named) == named
    if text.isascii():
        assert named == text


@given(st.lists(st.text(alphabet="adogs \n.", max_size=12), min_size=1, max_size=5))
def test_vectors_have_length_1_and_do_not_depend_on_the_other_queries(queries: list[str]) -> None:
    found = embed_queries(embedded, queries)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    alone = np.concatenate([embed_queries(embedded, [query]) for query in queries])
    np.testing.assert_array_equal(found, alone)


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


def test_a_term_is_one_thing_with_a_weight() -> None:
    with pytest.raises(SearchError, match="just one of them"):
        Term()
    with pytest.raises(SearchError, match="just one of them"):
        Term(text="x", image="y")
    for weight in (0.0, math.nan, math.inf, -11.0):
        with pytest.raises(SearchError, match="weight must"):
            Term(text="x", weight=weight)


@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=4), st.floats(0.5, 2), st.integers(0, 99))
def test_only_the_direction_counts_and_the_order_does_not(
    weights: list[float], factor: float, seed: int
) -> None:
    vectors = list(np.random.default_rng(seed).standard_normal((len(weights), 2, 8)))
    once = direction(vectors, weights)
    assert np.linalg.norm(once, axis=1) == pytest.approx(1, abs=1e-6)
    longer = direction(vectors, [factor * weight for weight in weights])
    assert longer == pytest.approx(once, abs=1e-6)
    assert direction(vectors[::-1], weights[::-1]) == pytest.approx(once, abs=1e-6)


def test_a_weighted_sum_by_hand() -> None:
    x, y = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert direction([x, y], [0.6, -0.8]) == pytest.approx(np.array([[0.6, -0.8]]))
    with pytest.raises(SearchError, match="opposite directions"):
        direction([x, x], [1.0, -1.0])


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

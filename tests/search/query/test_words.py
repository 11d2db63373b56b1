import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from coca.core.errors import ArgumentError, SearchError
from coca.search.query.words import WordIndex, analyze

WORDS = ["red", "cars", "car", "sky", "dogs", "the", "to", "猫", "naïve", "😀"]
TEXT = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
TEXTS = st.lists(TEXT, max_size=12)
QUERY = st.lists(st.sampled_from([*WORDS, "zebra"]), max_size=5).map(" ".join)
CHANGES = st.lists(st.dictionaries(st.integers(0, 15), TEXT, max_size=5), max_size=6)

HARD = {
    "letters": "a" * 100_000,
    "flags": "🇩🇪" * 50_000,
    "accents": "e" + "\u0301\u0323" * 50_000,
    "joiners": "👩\u200d" * 50_000,
    "full stops": "a." * 50_000,
    "ideographs": "猫" * 100_000,
    "ligatures": "ﷺ" * 20_000,
    "words": "dog " * 25_000,
}


def as_dict(index: WordIndex, query: str) -> dict[int, float]:
    rows, scores = index.scores(query)
    return dict(zip(rows.tolist(), scores.tolist(), strict=True))


def by_hand(texts: Sequence[str], query: str) -> dict[int, float]:
    """Compute BM25 with dictionaries; the stop words of `WORDS` are "the" and "to"."""
    documents = {row: Counter(analyze(text)) for row, text in enumerate(texts) if text}
    mean = sum(document.total() for document in documents.values()) / max(len(documents), 1)
    terms = analyze(query)
    scores: Counter[int] = Counter()
    for term in [term for term in terms if term not in ("the", "to")] or terms:
        frequency = sum(term in document for document in documents.values())
        idf = math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
        for row, document in documents.items():
            if tf := document[term]:
                norm = 1.2 * (1 - 0.75 + 0.75 * document.total() / mean)
                scores[row] += idf * tf / (tf + norm)  # type: ignore[assignment]
    return dict(sorted(scores.items()))


def applied(texts: Sequence[str], changes: Sequence[Mapping[int, str]]) -> list[str]:
    after = dict(enumerate(texts))
    for change in changes:
        after.update(change)
    return [after.get(row, "") for row in range(max(after, default=-1) + 1)]


def changed(index: WordIndex, changes: Sequence[Mapping[int, str]]) -> WordIndex:
    for change in changes:
        index.replace(change)
    return index


@given(TEXTS, QUERY)
def test_scores_are_those_of_the_formula(texts: list[str], query: str) -> None:
    assert as_dict(WordIndex.build(texts), query) == pytest.approx(by_hand(texts, query), rel=1e-5)


@given(TEXTS.filter(any), st.sampled_from(["red", "car", "red dogs", "猫 sky 😀", "the to"]))
def test_scores_are_those_of_bm25s_with_the_method_of_lucene(texts: list[str], query: str) -> None:
    rows = [row for row, text in enumerate(texts) if text]
    ranker = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    ranker.index([analyze(texts[row]) for row in rows], show_progress=False)
    known = [term for term in analyze(query) if term in ranker.vocab_dict]
    expected = ranker.get_scores(known) if known else np.zeros(len(rows))
    found = as_dict(WordIndex.build(texts), query)
    assert [found.get(row, 0.0) for row in rows] == pytest.approx(expected.tolist(), rel=1e-5)


@given(TEXTS, CHANGES, QUERY)
def test_a_changed_index_equals_a_rebuilt_index(
    texts: list[str], changes: list[dict[int, str]], query: str
) -> None:
    index = changed(WordIndex.build(texts), changes)
    rebuilt = WordIndex.build(applied(texts, changes))
    assert len(index) == len(rebuilt)
    assert as_dict(index, query) == as_dict(rebuilt, query)


@given(TEXTS, CHANGES, CHANGES, QUERY)
def test_an_opened_index_equals_the_saved_index_and_changes_like_it(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    before: list[dict[int, str]],
    after: list[dict[int, str]],
    query: str,
) -> None:
    index = changed(WordIndex.build(texts), before)
    folder = tmp_path_factory.mktemp("words")
    index.save(folder)
    opened = WordIndex.open(folder)
    assert len(opened) == len(index)
    assert as_dict(opened, query) == as_dict(index, query)
    assert as_dict(changed(opened, after), query) == as_dict(changed(index, after), query)


def test_an_open_index_keeps_its_content_when_another_is_saved(tmp_path: Path) -> None:
    WordIndex.build(["a red car"]).save(tmp_path)
    opened = WordIndex.open(tmp_path)
    WordIndex.build(["a dog", "a cat", "a bird"] * 1000).save(tmp_path)
    assert as_dict(opened, "car").keys() == {0}
    assert as_dict(WordIndex.open(tmp_path), "car") == {}


@pytest.mark.parametrize("damage", [0, 7, 20, -1, "other", "missing"])
def test_a_damaged_file_is_an_error_that_asks_for_a_new_build(
    tmp_path: Path, damage: int | str
) -> None:
    WordIndex.build(["a red car"]).save(tmp_path)
    (file,) = tmp_path.iterdir()
    if damage == "missing":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:damage] if isinstance(damage, int) else b"no index of words")
    with pytest.raises(SearchError, match="build the word index again"):
        WordIndex.open(tmp_path)


def test_a_file_of_another_analyzer_is_an_error_that_asks_for_a_new_build(tmp_path: Path) -> None:
    WordIndex.build(["a red car"]).save(tmp_path)
    (file,) = tmp_path.iterdir()
    save_file(load_file(file), file, metadata={"analyzer": "of long ago"})
    with pytest.raises(SearchError, match="of long ago"):
        WordIndex.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Two DOGS running", ["two", "dog", "run"]),
        ("the dog's ball, the dog\u2019s ball", ["the", "dog", "ball", "the", "dog", "ball"]),
        ("T-shirt 3.5", ["t", "shirt", "3.5"]),
        ("Straße STRASSE", ["strass", "strass"]),
        ("\uff46ull \ufb01sh", ["full", "fish"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("東京の猫", ["東", "京", "の", "猫"]),
        ("コーヒー 고양이", ["コーヒー", "고양이"]),
        ("हिन्दी बिल्ली", ["हिन्दी", "बिल्ली"]),
        ("a car🚗😀 👩‍🚀 🇩🇪", ["a", "car", "🚗", "😀", "👩‍🚀", "🇩🇪"]),
        ("red\0car\ncar", ["red", "car", "car"]),
        ("!?. \0 --", []),
    ],
)
def test_terms_of_a_text(text: str, terms: list[str]) -> None:
    assert analyze(text) == terms


@given(st.text(max_size=40))
def test_each_text_with_a_term_finds_itself(text: str) -> None:
    assert (0 in as_dict(WordIndex.build([text, "zebra"]), text)) == bool(analyze(text))


@pytest.mark.parametrize("text", HARD.values(), ids=HARD.keys())
def test_a_text_of_100_000_characters_finds_itself(text: str) -> None:
    assert as_dict(WordIndex.build([text, "zebra"]), text).keys() == {0}


def test_half_of_a_surrogate_pair_is_no_error() -> None:
    assert as_dict(WordIndex.build(["photo \udcff", "car"]), "photo \udcff").keys() == {0}


def test_a_negative_row_is_an_error_that_changes_nothing() -> None:
    index = WordIndex.build(["a red car"])
    with pytest.raises(ArgumentError, match="0 or more, got -1"):
        index.replace({0: "a dog", -1: "a cat"})
    assert as_dict(index, "car").keys() == {0}


def test_searches_during_a_change_see_it_as_a_whole() -> None:
    index = WordIndex.build(["red", "blue", *["sky"] * 50])
    done = threading.Event()
    seen: set[tuple[int, ...]] = set()

    def search() -> None:
        while not done.is_set():
            seen.add(tuple(index.scores("red")[0].tolist()))

    thread = threading.Thread(target=search)
    thread.start()
    for _ in range(200):
        index.replace({0: "blue", 1: "red"})
        index.replace({0: "red", 1: "blue"})
    done.set()
    thread.join()
    assert seen <= {(0,), (1,)}


def test_coverage_is_the_share_of_a_query_weighted_by_idf() -> None:
    index = WordIndex.build(["Invoice 2021, a chair", "", "invoices", "chair chair"])
    assert index.coverage("the invoice of 2021")[0].tolist() == [0, 2]
    common, rare = math.log1p(1.5 / 2.5), math.log1p(2.5 / 1.5)
    assert index.coverage("invoice 2021")[1] == pytest.approx([1, common / (common + rare)])
    assert index.coverage("zebra")[0].size == 0

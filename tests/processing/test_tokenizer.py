import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ConfigError, DataError, ModelError
from coca.processing.tokenizer import SPECIAL_TOKENS, Tokenizer

PAD, BOS, EOS, CLS = range(4)
KINDS: tuple[Literal["bpe", "unigram"], ...] = ("bpe", "unigram")
COLORS, THINGS = ("red", "green", "light blue", "Yellow"), ("car", "house", "dog's bone", "7 trees")
CAPTIONS = [
    f"A {color} {thing} {verb} the {place}."
    for color in COLORS
    for thing in THINGS
    for verb in ("below", "behind", "on top of")
    for place in ("river", "café", "old town hall")
]
TRAINED = {
    (kind, lowercase): Tokenizer.train(CAPTIONS, vocab_size=330, kind=kind, lowercase=lowercase)
    for kind in KINDS
    for lowercase in (True, False)
}
LISTED = ("the", "of", "automobile", "on", "taxi", "rock", "can't", "New", "car")
WITH_WORDS = Tokenizer.train(CAPTIONS, vocab_size=330, words=LISTED)

# Names of special tokens and odd blanks are far likelier here than in any text.
fragments = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(
        [*SPECIAL_TOKENS, " ", "\t", "\u00a0", "\u0130", "e\u0301", "\U0001f469‍🚒", "\0"]
    ),
    st.sampled_from(CAPTIONS),
)
texts = st.lists(fragments, max_size=5).map("".join)
trained = st.sampled_from([*TRAINED.values(), WITH_WORDS])


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TRAINED[request.param, True]


# Laws


@given(tokenizer=trained, text=texts)
def test_decoding_returns_the_normalised_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode([text], context_length=100_000)[0].tolist()
    assert tokenizer.decode(ids) == tokenizer.normalize(text)
    assert tokenizer.decode(tokenizer.encode_prompt(text)) == tokenizer.normalize(text)


@given(tokenizer=trained, text=texts)
def test_normalising_twice_changes_nothing_more(tokenizer: Tokenizer, text: str) -> None:
    once = tokenizer.normalize(text)
    assert tokenizer.normalize(once) == once


@given(tokenizer=trained, batch=st.lists(texts, max_size=5), context_length=st.integers(4, 70))
def test_a_batch_has_the_promised_layout(
    tokenizer: Tokenizer, batch: list[str], context_length: int
) -> None:
    ids = tokenizer.encode(batch, context_length=context_length)
    assert len(ids) == len(batch)
    width = ids.shape[1]
    assert width <= context_length
    assert width % 8 == 0 or width == context_length
    longest = 3
    for row, text in zip(ids.tolist(), batch, strict=True):
        words = tokenizer.encode_prompt(text)[1:][: context_length - 3]
        filled = [BOS, *words, EOS, CLS]
        assert row == filled + [PAD] * (width - len(filled))
        assert all(CLS < word < tokenizer.vocab_size for word in words)
        longest = max(longest, len(filled))
    assert width - longest < 8


@given(tokenizer=trained, text=texts.filter(bool), count=st.integers(1, 200))
def test_the_first_tokens_of_a_long_text_are_those_of_the_whole_text(
    tokenizer: Tokenizer, text: str, count: int
) -> None:
    long = text * (6_000 // len(text) + 1)
    assert tokenizer.leading_ids(long, count) == tokenizer.encode_prompt(long)[1:][:count]


# Examples


def test_capital_letters_are_read_as_small_ones_only_if_asked() -> None:
    for kind in KINDS:
        assert TRAINED[kind, True].normalize(" A Red CAR ") == "a red car"
        assert TRAINED[kind, False].normalize(" A Red CAR ") == "A Red CAR"


def test_a_word_is_the_same_piece_first_and_within_a_caption(tokenizer: Tokenizer) -> None:
    first, within = tokenizer.encode_prompt("river"), tokenizer.encode_prompt("the river")
    assert within[-len(first) + 1 :] == first[1:]


def test_decoding_stops_at_the_end_and_leaves_special_and_unknown_ids_out(
    tokenizer: Tokenizer,
) -> None:
    words = tokenizer.encode_prompt("a dog")[1:]
    odd = [BOS, PAD, *words, CLS, tokenizer.vocab_size + 5, EOS, *words]
    assert tokenizer.decode(odd) == "a dog"
    assert tokenizer.decode([]) == ""


def test_half_a_character_becomes_a_replacement_sign(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_prompt("\u2603")
    assert tokenizer.decode(ids[:-1]) == "\ufffd"


@pytest.mark.parametrize("text", ["\ud800", "a red \udfff car", "\udc80" * 1000])
def test_half_a_surrogate_pair_is_an_error_with_a_message(tokenizer: Tokenizer, text: str) -> None:
    for encode in (
        lambda: tokenizer.encode(["fine", text], context_length=16),
        lambda: tokenizer.encode_prompt(text),
        lambda: Tokenizer.train(["fine", text, "fine"], vocab_size=300),
    ):
        with pytest.raises(DataError, match="a lone surrogate") as caught:
            encode()
        assert caught.value.reason == "bad_text"
        assert len(str(caught.value)) < 500
        str(caught.value).encode()


@pytest.mark.parametrize("piece", [" ", "\u0301", "\U0001f468\u200d", "[CLS]\x1b"])
def test_a_million_characters_are_read(piece: str) -> None:
    # In a second or two; in quadratic time the test would not end within its time limit.
    text = "a" + piece * (1_000_000 // len(piece)) + "b"
    assert TRAINED["bpe", True].encode([text], context_length=32).shape == (1, 32)


# Training


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab_size", [261, 300, 340])
def test_the_vocabulary_has_the_size_asked_for(
    kind: Literal["bpe", "unigram"], vocab_size: int
) -> None:
    random = np.random.default_rng(0)
    syllables = ["ba", "ke", "lin", "mox", "sta", "tu", "vex", "wi", "yo", "zand"]
    words = ["".join(random.choice(syllables, random.integers(1, 4))) for _ in range(300)]
    sentences = [" ".join(random.choice(words, 8)) for _ in range(500)]
    assert Tokenizer.train(sentences, vocab_size=vocab_size, kind=kind).vocab_size == vocab_size


@pytest.mark.parametrize("kind", KINDS)
def test_few_texts_give_a_small_vocabulary_that_still_writes_anything(
    kind: Literal["bpe", "unigram"],
) -> None:
    tokenizer = Tokenizer.train(iter(["a cat"]), vocab_size=5000, kind=kind)
    assert 260 <= tokenizer.vocab_size < 300
    assert tokenizer.decode(tokenizer.encode_prompt("ünï ☃\x01\x7f")) == "ünï ☃\x01\x7f"


def test_frequent_words_are_one_piece() -> None:
    assert len(TRAINED["bpe", True].encode_prompt("a red car below the river")) == 7


RETRAIN = """
import hashlib, pathlib, sys
from coca.processing.tokenizer import Tokenizer
texts = sys.argv[1].split("|")
for kind in ("bpe", "unigram"):
    Tokenizer.train(texts, vocab_size=330, kind=kind).save(sys.argv[2])
    print(hashlib.sha256(pathlib.Path(sys.argv[2]).read_bytes()).hexdigest())
"""


@pytest.mark.slow
def test_training_is_the_same_in_every_process_with_any_number_of_threads(tmp_path: Path) -> None:
    seen = set()
    for threads in ("1", "3"):
        done = subprocess.run(
            [sys.executable, "-c", RETRAIN, "|".join(CAPTIONS), str(tmp_path / "t.json")],
            capture_output=True,
            text=True,
            env={"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            check=True,
        )
        seen.add(done.stdout)
    assert len(seen) == 1


@pytest.mark.parametrize("vocab_size", [-1, 0, 260])
def test_a_vocabulary_of_special_tokens_and_bytes_alone_is_refused(vocab_size: int) -> None:
    with pytest.raises(ConfigError, match="must be above 260"):
        Tokenizer.train(CAPTIONS, vocab_size=vocab_size)


def test_training_on_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="no text"):
        Tokenizer.train([], vocab_size=300)


def test_a_context_too_short_for_a_token_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="at least 4"):
        tokenizer.encode(["a"], context_length=3)


# Files


@pytest.mark.parametrize("tokenizer", [*TRAINED.values(), WITH_WORDS])
def test_saving_and_pickling_keep_everything(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    batch = [*CAPTIONS, "a [CLS] b [EOS]", "taxi of", "ÉTÉ ☃", ""]
    expected = tokenizer.encode(batch, context_length=64)
    for copy in (
        Tokenizer.load(tmp_path / "tokenizer.json"),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert copy.encode(batch, context_length=64).equal(expected)
        assert copy.vocab_size == tokenizer.vocab_size
        assert copy.words() == tokenizer.words()
        assert copy.learned_size == tokenizer.learned_size
        copy.save(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"version": "1.0"}'])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.json"):
        Tokenizer.load(tmp_path / "broken.json")


def test_a_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    foreign = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, []))
    foreign.save(str(tmp_path / "foreign.json"))
    with pytest.raises(ModelError, match=r"id 0 of the tokenizer is 'a'; it must be '\[PAD\]'"):
        Tokenizer.load(tmp_path / "foreign.json")


def test_without_a_normaliser_text_stays_as_it_is(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path / "t.json")
    state: dict[str, Any] = json.loads((tmp_path / "t.json").read_text())
    state["normalizer"] = None
    (tmp_path / "t.json").write_text(json.dumps(state))
    assert Tokenizer.load(tmp_path / "t.json").normalize(" A ") == " A "


# A list of common words


@pytest.mark.parametrize("word", ["the", "automobile", "taxi", "rock", "car"])
@pytest.mark.parametrize("before", ["", "a ", "red, "])
def test_a_listed_word_is_one_token_anywhere(word: str, before: str) -> None:
    ids = WITH_WORDS.encode_prompt(before + word)
    assert WITH_WORDS.words()[ids[-1]] == word
    assert len(ids) == len(WITH_WORDS.encode_prompt(before)) + 1


def test_a_word_list_changes_the_tokens_of_listed_words_only() -> None:
    plain = Tokenizer.train(CAPTIONS, vocab_size=330 - len(LISTED))
    assert WITH_WORDS.learned_size == plain.vocab_size == plain.learned_size
    for text in ("A red house", "rocks", "automobiles", "xyz", "7 trees behind"):
        assert WITH_WORDS.encode_prompt(text) == plain.encode_prompt(text)
    assert len(plain.encode_prompt("automobile")) > 2


def test_words_that_cannot_be_one_token_are_skipped() -> None:
    listed = set(WITH_WORDS.words()[WITH_WORDS.learned_size :])
    assert {"automobile", "taxi", "rock", "car"} <= listed
    assert not listed & {"can't", "New", "new", "the"}  # "the" was learned
    assert WITH_WORDS.vocab_size <= 330


def test_parts_of_words_and_special_tokens_are_no_words() -> None:
    words = WITH_WORDS.words()
    assert words[:4] == [None] * 4
    for text, word in (("!", "!"), ("rock", "rock")):
        assert words[WITH_WORDS.encode_prompt(text)[-1]] == word
    ids = WITH_WORDS.encode_prompt("xq")
    assert words[ids[-1]] is None


def test_too_many_words_and_unigram_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"vocab_size is 265; it must be above 269, which .* 9 w"):
        Tokenizer.train(CAPTIONS, vocab_size=265, words=LISTED)
    with pytest.raises(ConfigError, match="words need a tokenizer of kind 'bpe', got 'unigram'"):
        Tokenizer.train(CAPTIONS, vocab_size=330, kind="unigram", words=LISTED)

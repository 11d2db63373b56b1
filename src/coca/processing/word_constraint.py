"""Constraint of generation to the words of a list, by a trie of their token ids.

A caption may continue a listed word. After a whole word it may begin another word, add a
punctuation mark, or end. A word is begun only if it can be finished within the maximum length.

Dimensions: N captions so far, t tokens after their prompts, V vocabulary, K classes.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64

from coca.processing.caption_words import is_punctuation, joins_words
from coca.processing.class_words import ClassGuide, ClassNoun, ClassWords

_MAX_WORD_TOKENS = 32
"""Longer words are left out."""
_END = np.iinfo(np.int64).max


class WordConstraint:
    """Trie of the words of a list. The state of a caption is a node: the tokens of its last word.

    State 0 is the root, before the first word and after a mark.
    """

    class_words: ClassWords | None = None
    """Words of the image encoder's classes, if the model has them."""

    def __init__(
        self,
        words: Iterable[Sequence[int]],
        punctuation: Iterable[int],
        *,
        eos_id: int,
        vocab_size: int,
    ) -> None:
        """Build the trie."""
        marks = frozenset(punctuation)
        edges: dict[tuple[int, int], int] = {}
        complete = [True]
        for ids in words:
            if not 0 < len(ids) <= _MAX_WORD_TOKENS:
                continue
            node = 0
            for token in ids:
                node = edges.setdefault((node, token), len(complete))
                if node == len(complete):
                    complete.append(False)
            complete[node] = True
        # A mark may also be a part of a word. A child was made after its parent.
        for (node, token), child in edges.items():
            complete[child] |= complete[node] and token in marks
        self._vocab_size = vocab_size
        self._complete = np.array(complete)
        ordered = sorted(edges)
        nodes = np.array([node for node, _ in ordered], np.int64)
        self._tokens = np.array([token for _, token in ordered], np.int64)
        # Last, a key that no state and token have, so that each search finds a place.
        self._keys = np.append(nodes * vocab_size + self._tokens, _END)
        self._children = np.array([*(edges[edge] for edge in ordered), 0], np.int64)
        self._first = np.searchsorted(nodes, np.arange(len(complete) + 1))
        self._needed = self._tokens_to_word()
        self._at_root = np.zeros(vocab_size, np.int64)
        starts, targets = self._tokens[: self._first[1]], self._children[: self._first[1]]
        self._at_root[starts] = targets
        # Forbidden tokens after a whole word, by the number of tokens that may follow the next;
        # the last row is for an unfinished word.
        levels = int(self._needed.max()) + 1
        self._forbidden = np.ones((levels + 1, vocab_size), bool)
        self._forbidden[:levels, [*marks, eos_id]] = False
        for level in range(levels):
            self._forbidden[level, starts[self._needed[targets] <= level]] = False

    @classmethod
    def of_words(
        cls,
        words: Collection[str],
        *,
        encode: Callable[[str, int], list[int]],
        decode: Callable[[Sequence[int]], str],
        eos_id: int,
        vocab_size: int,
        nouns: Sequence[ClassNoun] = (),
    ) -> "WordConstraint":
        """Build the trie of words with the tokenizer of a model."""
        before = encode("a", _MAX_WORD_TOKENS)
        start = decode(before)
        after = (decode([*before, id_]).removeprefix(start) for id_ in range(vocab_size))
        constraint = cls(
            (encode(word, _MAX_WORD_TOKENS + 1) for word in words),
            [id_ for id_, text in enumerate(after) if _may_follow(text)],
            eos_id=eos_id,
            vocab_size=vocab_size,
        )
        constraint.class_words = ClassWords(nouns, words, encode=encode) if nouns else None
        return constraint

    def guide(self, probabilities: Float[np.ndarray, "N K"], *, width: int) -> ClassGuide | None:
        """Return the guide of captions to the words of the images' classes; see `ClassWords`."""
        words = self.class_words
        return None if words is None else words.guide(probabilities, width=width)

    def states(self, generated: Int64[np.ndarray, "N t"]) -> Int64[np.ndarray, " N"]:
        """Return the state of each caption after its generated tokens."""
        states = np.zeros(len(generated), np.int64)
        for tokens in generated.T:
            keys = states * self._vocab_size + tokens
            places = np.searchsorted(self._keys, keys)
            found = self._keys[places] == keys
            states = np.where(found, self._children[places], self._root(tokens))
        return states

    def is_whole(self, states: Int64[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
        """Return whether the last word of each caption is whole."""
        return self._complete[states]

    def forbidden(
        self,
        states: Int64[np.ndarray, " N"],
        remaining: Int64[np.ndarray, " N"],
        *,
        width: int,
    ) -> Bool[np.ndarray, "N V"]:
        """Return the mask of the tokens that must not come next."""
        left = remaining - 1
        unfinished = len(self._forbidden) - 1
        level = np.where(self._complete[states], left.clip(0, unfinished - 1), unfinished)
        mask = np.ones((len(states), width), bool)
        mask[:, : self._vocab_size] = self._forbidden[level]
        # The children of the root are in the table.
        first = self._first[states]
        counts = np.where(states == 0, 0, self._first[states + 1] - first)
        rows = np.repeat(np.arange(len(states)), counts)
        edges = np.arange(len(rows)) + np.repeat(first - (counts.cumsum() - counts), counts)
        mask[rows, self._tokens[edges]] = self._needed[self._children[edges]] > left[rows]
        mask[self._needed[states] > remaining] = False
        return mask

    def _root(self, tokens: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
        known = (tokens >= 0) & (tokens < self._vocab_size)
        return np.where(known, self._at_root[np.where(known, tokens, 0)], 0)

    def _tokens_to_word(self) -> Int64[np.ndarray, " nodes"]:
        """Count the tokens from each node to the nearest whole word."""
        needed = np.where(self._complete, 0, _MAX_WORD_TOKENS)
        # A child has a larger number than its parent.
        parents = np.repeat(np.arange(len(needed)), np.diff(self._first))
        for edge in np.argsort(-self._children[:-1]):
            parent, child = parents[edge], self._children[edge]
            needed[parent] = min(needed[parent], needed[child] + 1)
        return needed


def _may_follow(text: str) -> bool:
    """Return whether a token, decoded after a word, is punctuation that ends the word."""
    mark = text.strip()
    # Bytes that are not UTF-8 are decoded to a symbol.
    if not mark or "\ufffd" in mark or not is_punctuation(mark):
        return False
    return text[0].isspace() or not joins_words(mark)

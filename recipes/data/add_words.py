r"""Add whole words of a second language to a model, as the start of a run that teaches them.

    python recipes/data/add_words.py everyday runs/everyday-de --pairs text_only.jsonl --language de

A row of `--pairs` is a JSON object with captions of one photo: `en`, a list in English, and a list
in a field that is called like the language. Each of the most frequent words of the language becomes
one token. Its embedding starts at the mean of the English words that occur with the same photos, so
that the model understands much of the language before it is trained: "hund" starts at "dog". The
folder is for `init_from` of a recipe.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.model.coca import CoCa
from coca.model.pretrained import save_model
from coca.processing.processor import Processor
from coca.processing.tokenizer import Tokenizer
from coca.runtime.caption_words import words_of

EMBEDDING = "unimodal_decoder.token_embedding.weight"
CANDIDATES = 3
"""English words whose embeddings a new word starts from."""
SHARPNESS = 10.0
"""A Dice coefficient that is larger by 0.1 has 2.7 times the weight."""


def read_pairs(path: Path, language: str) -> list[tuple[set[str], set[str]]]:
    """Read the words of each photo's English captions, and of those in the language."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(_words(row["en"]), _words(row[language])) for row in rows]


def frequent(pairs: Sequence[tuple[set[str], set[str]]], part: int, count: int) -> list[str]:
    """List the `count` words of one side that occur with the most photos."""
    counts = Counter(word for pair in pairs for word in pair[part])
    return [word for word, _ in counts.most_common(count)]


def dice(
    pairs: Sequence[tuple[set[str], set[str]]], english: Sequence[str], new: Sequence[str]
) -> NDArray[np.float64]:
    """Compute the Dice coefficient of each new word, a row, and each English word, 0 to 1.

    It is twice the number of photos with both, over the sum of the photos with either.
    """
    rows, columns = ({word: i for i, word in enumerate(some)} for some in (new, english))
    both = np.zeros((len(new), len(english)))
    of_new, of_english = np.zeros(len(new)), np.zeros(len(english))
    for own, other in pairs:
        row = [rows[word] for word in other if word in rows]
        column = [columns[word] for word in own if word in columns]
        both[np.ix_(row, column)] += 1
        of_new[row] += 1
        of_english[column] += 1
    return 2 * both / (of_new[:, None] + of_english)


def extended(
    source: Predictor, pairs: Sequence[tuple[set[str], set[str]]], count: int
) -> tuple[CoCa, Processor]:
    """Extend a model by the most frequent words of the second language."""
    tokenizer, model = source.processor.tokenizer, source.model
    if not isinstance(tokenizer, Tokenizer) or not isinstance(model, CoCa):
        raise SystemExit("words can be added to a CoCa with a tokenizer of its own only")
    known = {word: id_ for id_, word in enumerate(tokenizer.words()) if word}
    new = [word for word in frequent(pairs, 1, count) if word not in known]
    larger = tokenizer.with_words(new)
    new = [word or "" for word in larger.words()[tokenizer.vocab_size :]]
    english = [word for word in frequent(pairs, 0, len(known)) if word in known]
    scores = dice(pairs, english, new)
    best = np.argsort(-scores, axis=1)[:, :CANDIDATES]
    weights = torch.from_numpy(np.take_along_axis(scores, best, axis=1)).mul(SHARPNESS).softmax(1)
    state = dict(model.state_dict())
    table = state[EMBEDDING]
    ids = torch.tensor([known[word] for word in english])[torch.from_numpy(best)]
    start = (weights[..., None].to(table.dtype) * table[ids]).sum(dim=1)
    state[EMBEDDING] = torch.cat([table[: tokenizer.vocab_size], start])
    text = replace(model.config.text, vocab_size=larger.vocab_size)
    result = CoCa(replace(model.config, text=text))
    result.load_state_dict(state)
    own = source.processor
    processor = Processor(own.image, larger, own.context_length, caption_words=own.caption_words)
    return result, processor


def _words(captions: Sequence[str]) -> set[str]:
    return set(words_of(" ".join(captions).lower()))


def main() -> None:
    """Write the folder as the arguments of the command line say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="name or folder")
    parser.add_argument("out", type=Path, help="folder of the larger model")
    parser.add_argument("--pairs", type=Path, required=True, help="JSON lines")
    parser.add_argument("--language", required=True, help="field of the captions, such as `de`")
    parser.add_argument("--count", type=int, default=3000, help="default: %(default)s")
    given = parser.parse_args()
    pairs = read_pairs(given.pairs, given.language)
    model, processor = extended(load(given.model, prepack=False), pairs, given.count)
    processor.save(given.out)
    save_model(given.out, model)
    print(f"{given.out}: a vocabulary of {model.config.text.vocab_size:,}")


if __name__ == "__main__":
    main()

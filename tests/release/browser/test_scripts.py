"""The scripts of the static page against the Python code whose results they must equal."""

import json
import random
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.processing.clip_bpe import ClipTokenizer
from coca.release.browser.static_page import vector_bytes
from coca.runtime.preprocess import ImageSettings, TextSettings, TextTokens, square
from coca.search.query.query_terms import RULES, query_forms
from coca.weights import __path__ as weights
from page_scripts import NODE, node

pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")

TEXTS = [
    "",
    " ",
    "a red car",
    "  A  Red\tCar\n",
    "It's the dog's; they'll say we'd've, I'M!",
    "1 22 333 4.5e-6 №7 ½",
    "crème brûlée, cre\u0300me, ﬁne",
    "ΟΔΟΣ ΣΑΣ İstanbul DŽ ß \u017f",
    "猫と犬 고양이 คน हिन्दी",
    "👩‍👩‍👧 🇩🇪 🐈‍⬛ ♥️",
    "\ufeffbom \x85 next \u2003em \u00a0nbsp \u200bzero",
    "[BOS] [EOS] <|endoftext|> <b>&amp;</b>",
    "supercalifragilisticexpialidocious " * 12,
    "\\ \x00 \x1c \x1f ~ \x7f \xad",
]
QUERIES = (
    "a dog|The Dogs!|show me some red cars|please find puppies|looking for the beaches|a a dog|"
    "glasses|PUPPIES|buses|shoes|toes|Women|two cats on the beach|the|?|show me|12:30|dogs\x85cats|"
    "tacos|lens|mars|species|canvas|series|texas|children|people|mice|grass|tennis|dresses|leaves|"
    "\N{DOG FACE}|a \N{CAT FACE}s|\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET} and dogs"
)
RANGES = ((32, 127), (160, 0x250), (0x370, 0x400), (0x2000, 0x2070), (0x4E00, 0x4E40))


def texts() -> list[str]:
    """The texts above, and a few hundred of random characters."""
    draw = random.Random(0)
    found = [*TEXTS]
    for _ in range(400):
        letters = [draw.choice(RANGES) for _ in range(draw.randrange(40))]
        text = "".join(chr(draw.randrange(*letter)) for letter in letters)
        found += [text, f"a photo of {text.lower()} and the {text[:5]}ing"]
    return found


def encoded(path: Path, layout: dict[str, Any], given: list[str]) -> list[list[int]]:
    script = """
import { Tokenizer } from "PAGE/tokenizer.js";
const tokenizer = new Tokenizer(given.file, given.layout);
console.log(JSON.stringify(given.texts.map((text) => tokenizer.encode(text))));
"""
    file = json.loads(path.read_text(encoding="utf-8"))
    return node(script, {"file": file, "layout": layout, "texts": given})


def test_the_page_encodes_texts_as_python_does() -> None:
    path = Path(weights[0]) / "everyday" / "tokenizer.json"
    layout: dict[str, Any] = {
        "context_length": 32,
        "positions": 32,
        "max_text_tokens": 29,
        "pad_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "suffix": (2, 3),
        "skipped": (1, 2, 3),
        "suppressed": (),
        "cleaning": "none",
    }
    tokens = TextTokens(path, TextSettings(**layout))
    given = texts()
    for text, found in zip(given, encoded(path, layout, given), strict=True):
        assert found == tokens.encode([text])[0].tolist(), text


def test_the_page_reads_short_queries_as_python_does() -> None:
    script = """
import { forms } from "PAGE/queries.js";
const { texts, rules } = given;
console.log(JSON.stringify(texts.map((text) => forms(text, rules))));
"""
    given = [*texts(), *QUERIES.split("|")]
    found = node(script, {"texts": given, "rules": RULES})
    for text, forms in zip(given, found, strict=True):
        assert forms == query_forms(text), text


def test_the_page_encodes_clean_texts_as_clip_does(tmp_path: Path) -> None:
    pytest.importorskip("ftfy")
    # A small vocabulary: bytes, and the merges of two words.
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("'", "s</w>")]
    tokenizer = ClipTokenizer.from_merges(merges)
    tokenizer.save(tmp_path / "tokenizer.json")
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    layout = {"bos_id": bos, "suffix": [eos], "context_length": 77, "cleaning": "clip"}
    given = ["The Cat's dog", "  cats 12 dogs!!", "a " * 100, "x\ty\nz", ""]
    found = encoded(tmp_path / "tokenizer.json", layout, given)
    for text, ids in zip(given, found, strict=True):
        assert ids == tokenizer.encode([text], context_length=77)[0][: len(ids)].tolist()


def test_the_page_resizes_images_as_python_does() -> None:
    random = np.random.default_rng(0)
    script = """
import { square } from "PAGE/pixels.js";
const found = given.map(({ width, height, data, settings }) =>
  Array.from(square({ width, height, data: Uint8Array.from(data) }, settings)));
console.log(JSON.stringify(found));
"""
    images: list[np.ndarray] = []
    given: list[dict[str, Any]] = []
    # "shortest" cuts an odd number of pixels off the last two, 13 and 15: halves are rounded. Only
    # images that are not trimmed, and so not square, have offsets, and an axis that comes first.
    # The longest is above the limit of a square.
    for height, width in ((50, 31), (90, 31), (9, 40), (17, 17), (11, 17), (18, 11), (7_201, 9)):
        image = np.full((height, width, 3), 250, np.uint8)
        image[2 : height - 3, 1 : width - 4] = random.integers(0, 256, (height - 5, width - 5, 3))
        shown = {"width": width, "height": height, "data": image.ravel().tolist()}
        for resize, interpolation, trim in product(
            ("squash", "crop", "pad", "shortest"), ("bicubic", "bilinear"), (True, False)
        ):
            if height > 7_000 and (resize, interpolation, trim) != ("squash", "bicubic", True):
                continue
            settings = {
                "image_size": 24,
                "resize": resize,
                "trim": trim,
                "mean": (0.5, 0.5, 0.5),
                "std": (0.5, 0.5, 0.5),
                "interpolation": interpolation,
                "reduced": False,
            }
            images.append(image)
            given.append({**shown, "settings": settings})
    for image, case, pixels in zip(images, given, node(script, given), strict=True):
        expected = square(image, ImageSettings(**case["settings"])).astype(int)
        assert np.abs(np.array(pixels).reshape(3, 24, 24) - expected).max() <= 1, case["settings"]


def test_the_page_reads_8_bit_vectors_and_ranks_all_by_cosine() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(0, 1, (50, 8)).astype(np.float32)
    vectors[0, :4] = 0, 1e-6, -65504, 6e-8
    vectors[7] = 0
    query = random.normal(0, 1, 12)
    script = """
import { Vectors } from "PAGE/vectors.js";
const vectors = new Vectors(Uint8Array.from(given.bytes).buffer, 8);
const hits = vectors.nearest(Float32Array.from(given.query));
const rows = [...Array(vectors.count).keys()].map((row) => Array.from(vectors.row(row)));
console.log(JSON.stringify({ rows, hits }));
"""
    found = node(script, {"bytes": [*vector_bytes(vectors)], "query": query.tolist()})
    there = np.arange(50) != 7
    units = np.zeros_like(vectors)
    units[there] = vectors[there] / np.linalg.norm(vectors[there], axis=1, keepdims=True)
    # A step is 1/127 of a vector's largest number.
    np.testing.assert_allclose(found["rows"], units, atol=1 / 127)
    short = query[:8] / np.linalg.norm(query[:8])
    scores = np.array(found["rows"]) @ short
    order = np.argsort(-scores)
    expected = order[order != 7]
    assert [hit["row"] for hit in found["hits"]] == expected.tolist()
    np.testing.assert_allclose([hit["score"] for hit in found["hits"]], scores[expected], atol=1e-6)

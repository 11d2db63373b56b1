"""The scripts of the static page against the Python code whose results they must equal."""

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import CocaError
from coca.experimental.browser_page.export import PAGE, check_tokenizer
from coca.runtime.preprocess import TextSettings, TextTokens
from coca.weights import __path__ as weights

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")
SHIPPED = Path(weights[0]) / "everyday" / "tokenizer.json"

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


def node(script: str, given: Any) -> Any:
    """Run a module that reads JSON as `given`, and return what it prints as JSON."""
    code = (
        'import { readFileSync } from "node:fs";\n'
        'const given = JSON.parse(readFileSync(0, "utf8"));\n' + script.replace("PAGE", str(PAGE))
    )
    done = subprocess.run(
        [str(NODE), "--no-warnings", "--input-type=module", "-e", code],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
    tokens = TextTokens(SHIPPED, TextSettings(**layout))
    given = texts()
    for text, found in zip(given, encoded(SHIPPED, layout, given), strict=True):
        assert found == tokens.encode([text])[0].tolist(), text


SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed", "invert": True}
VOCABULARY = [["[PAD]", 0.0], ["[BOS]", 0.0], ["[EOS]", 0.0], ["[CLS]", 0.0], ["a", -1.0]]


@pytest.mark.parametrize(
    ("section", "part", "reason"),
    [
        ("pre_tokenizer", SPLIT, "may take exponential time"),
        ("pre_tokenizer", {"type": "Whitespace"}, "no pre_tokenizer of the type Whitespace"),
        ("model", {"type": "Unigram", "unk_id": 0, "vocab": VOCABULARY}, "type BPE, got Unigram"),
    ],
)
def test_a_tokenizer_that_the_page_cannot_run_is_refused(
    tmp_path: Path, section: str, part: Any, reason: str
) -> None:
    check_tokenizer(SHIPPED)
    content = json.loads(SHIPPED.read_text(encoding="utf-8"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**content, section: part}), encoding="utf-8")
    with pytest.raises(CocaError, match=reason):
        check_tokenizer(path)

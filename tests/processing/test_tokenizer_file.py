"""Tokenizer files of unknown origin: unsafe parts and failures of the library are one sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import ModelError
from coca.model.shipped import shipped
from coca.processing.preprocess import TextSettings, TextTokens
from coca.processing.tokenizer_file import decode_ids, encode_text, guarded, read_tokenizer

SHIPPED = shipped()["everyday"] / "tokenizer.json"


def split(**pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def write(folder: Path, **sections: Any) -> Path:
    """Write the tokenizer of a shipped model with other sections."""
    content = json.loads(SHIPPED.read_text(encoding="utf-8"))
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**content, **sections}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("section", "part", "reason"),
    [
        ("pre_tokenizer", split(Regex="(a+)+$"), r"regular expression '\(a\+\)\+\$'"),
        ("pre_tokenizer", split(Regex="a*a*a*a*a*$"), "may take exponential time"),
        ("normalizer", replace("b", Regex="(a+)+$"), "a normalizer of the type 'Replace'"),
        ("decoder", replace("b", Regex="(a+)+$"), r"regular expression '\(a\+\)\+\$'"),
        (
            "decoder",
            replace("aaaaaaaaaa", String="a"),
            "replaces 'a' .* by the longer 'aaaaaaaaaa'",
        ),
        ("decoder", {"type": "Strip", "content": "a", "start": 99, "stop": 99}, "'Strip'; allowed"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "'Precompiled'"),
        ("normalizer", {"type": "Prepend", "prepend": "a" * 99}, "'Prepend'; allowed: Bert"),
        ("pre_tokenizer", {"type": "FixedLength", "length": 0}, "'FixedLength'; allowed: Bert"),
        ("pre_tokenizer", "ByteLevel", "of the type None"),
        ("model", {"type": "Other"}, "a model of the type 'Other'; allowed: BPE"),
    ],
)
@pytest.mark.parametrize("depth", [0, 2])
def test_an_unsafe_part_is_refused_at_any_depth(
    tmp_path: Path, section: str, part: Any, reason: str, depth: int
) -> None:
    key = {"pre_tokenizer": "pretokenizers"}.get(section, f"{section}s")
    for _ in range(0 if section == "model" else depth):
        part = {"type": "Sequence", key: [part]}
    with pytest.raises(ModelError, match=rf"tokenizer\.json .*{reason}"):
        read_tokenizer(write(tmp_path, **{section: part}))


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"model": []}', '{"a":' * 5000, '"\\ud800"'])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json is not a"):
        read_tokenizer(path)


def test_truncation_and_padding_of_a_file_are_not_applied(tmp_path: Path) -> None:
    padding = {
        "strategy": {"Fixed": 1000},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5}
    changed = read_tokenizer(write(tmp_path, padding=padding, truncation=truncation))
    text = "a red car on a long road"
    assert encode_text(changed, text) == encode_text(read_tokenizer(SHIPPED), text)


def test_a_text_that_the_vocabulary_cannot_encode_is_a_model_error(tmp_path: Path) -> None:
    vocabulary = {"[PAD]": 0, "[BOS]": 1, "[EOS]": 2, "[CLS]": 3}
    model = {"type": "WordLevel", "unk_token": "?", "vocab": vocabulary}
    path = write(tmp_path, model=model, added_tokens=[], pre_tokenizer=None)
    backend = read_tokenizer(path)
    with pytest.raises(ModelError, match="the model's tokenizer cannot encode 'a red car'"):
        encode_text(backend, "a red car")


def test_a_panic_of_the_library_is_a_model_error() -> None:
    import tokenizers

    regex = tokenizers.Regex("(a+)+$")
    hostile = tokenizers.Tokenizer(tokenizers.models.BPE())
    hostile.pre_tokenizer = tokenizers.pre_tokenizers.Split(regex, "isolated")
    with pytest.raises(ModelError, match=r"cannot encode 'a{40}': .*retry-limit"):
        encode_text(hostile, "a" * 60 + "b")
    hostile.decoder = tokenizers.decoders.Strip("a", 99, 99)
    hostile.add_tokens(["aa"])
    with pytest.raises(ModelError, match=r"cannot decode \[0\]: "):
        decode_ids(hostile, [0])


def test_an_interrupt_is_not_a_model_error() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(interrupted, "failed")


def test_an_exported_model_with_a_hostile_file_is_refused(tmp_path: Path) -> None:
    settings = TextSettings(
        context_length=16,
        positions=16,
        max_text_tokens=13,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        suffix=(2, 3),
        skipped=(0, 1, 2, 3),
        suppressed=(0, 1, 3),
        cleaning="none",
    )
    with pytest.raises(ModelError, match="may take exponential time"):
        TextTokens(write(tmp_path, pre_tokenizer=split(Regex="(a+)+$")), settings)
    shutil.copy(SHIPPED, tmp_path)
    assert TextTokens(tmp_path / SHIPPED.name, settings).encode(["a car"]).shape == (1, 5)

"""Tokenizer files for other libraries, whose tokenizers add the special tokens by themselves."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import normalizers, processors

from coca.processing.tokenizer import TextTokenizer
from coca.runtime.preprocess import TextSettings


def write_tokenizer(
    folder: Path, tokenizer: TextTokenizer, layout: TextSettings, **settings: Any
) -> None:
    """Write `tokenizer.json` with a post-processor, and `tokenizer_config.json`.

    Args:
        folder: Folder to write to.
        tokenizer: The model's tokenizer.
        layout: Layout of the model's token ids.
        **settings: Further content of `tokenizer_config.json`.
    """
    path = folder / "tokenizer.json"
    tokenizer.save(path)
    backend = tokenizers.Tokenizer.from_file(str(path))
    if layout.cleaning == "clip":
        # Without ftfy, which repairs broken Unicode, and without HTML entities.
        space = tokenizers.Regex(r"\s+")
        steps = [normalizers.NFC(), normalizers.Replace(space, " "), normalizers.Lowercase()]
        backend.normalizer = normalizers.Sequence(steps)
    ids = (layout.bos_id, *layout.suffix)
    first, *last = map(backend.id_to_token, ids)
    backend.post_processor = processors.TemplateProcessing(
        single=[first, "$A", *last], special_tokens=[(backend.id_to_token(id), id) for id in ids]
    )
    backend.save(str(path))
    config = {
        "pad_token": backend.id_to_token(layout.pad_id),
        "bos_token": backend.id_to_token(layout.bos_id),
        "eos_token": backend.id_to_token(layout.eos_id),
        "model_max_length": layout.context_length,
        **settings,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

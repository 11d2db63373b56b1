import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coca.core.errors import ModelError
from coca.core.files.atomic import sha256_file
from coca.inference.convert_openclip import (
    OPENAI_MEAN,
    SOURCE_FILE,
    About,
    caveat_of,
    import_weights,
    read_about,
)
from coca.model.openclip.config import from_open_clip
from coca.model.pretrained import load_model
from coca.processing.processor import Processor
from tiny_weights import ABOUT, CONTEXT, WEIGHTS, model_cfg, tiny_peer, write_open_clip


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return write_open_clip(tmp_path / "theirs")


def imported(theirs: Path, **options: Any) -> Path:
    out = theirs.parent / "ours"
    vocabulary = theirs / "tokenizer.json"
    import_weights(theirs / WEIGHTS, out, vocabulary=vocabulary, source="them", **options)
    return out


@pytest.mark.parametrize("described", [True, False])
def test_the_folder_gives_what_open_clip_gives(theirs: Path, described: bool) -> None:
    about = read_about(theirs / ABOUT) if described else None
    folder = imported(theirs, about=about)
    ours, peer = load_model(folder), tiny_peer()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tokens = Processor.load(folder).texts(["the cat", "a cat, the mat"])
    padded = torch.nn.functional.pad(tokens, (0, CONTEXT - tokens.shape[1]))
    with torch.no_grad():
        torch.testing.assert_close(
            ours.encode_image(images), peer.encode_image(images), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            ours.encode_text(tokens), peer.encode_text(padded), atol=1e-5, rtol=0
        )


def test_images_are_preprocessed_as_by_clip_by_default(theirs: Path) -> None:
    config = Processor.load(imported(theirs)).image_config
    assert (config.image_size, config.resize, config.mean) == (16, "shortest", OPENAI_MEAN)
    preprocess = {"mean": [0.5, 0.5, 0.5], "resize_mode": "squash", "interpolation": "bilinear"}
    about = About(from_open_clip(model_cfg()), preprocess)
    config = Processor.load(imported(theirs, about=about)).image_config
    assert (config.resize, config.mean, config.interpolation) == ("squash", (0.5,) * 3, "bilinear")


def test_the_folder_records_where_its_weights_come_from(theirs: Path) -> None:
    folder = imported(theirs, caveat="beware")
    assert json.loads((folder / SOURCE_FILE).read_text()) == {
        "source": "them",
        "file": WEIGHTS,
        "sha256": sha256_file(theirs / WEIGHTS),
        "caveat": "beware",
    }
    assert caveat_of(folder) == "beware"
    assert caveat_of(imported(theirs)) == ""
    assert caveat_of(theirs) == ""


def test_a_damaged_note_on_the_source_is_reported(theirs: Path) -> None:
    (theirs / SOURCE_FILE).write_text("[]")
    with pytest.raises(ModelError, match=r"source\.json cannot be read"):
        caveat_of(theirs)


def changed(theirs: Path, **tensors: torch.Tensor | None) -> None:
    state = torch.load(theirs / WEIGHTS)
    for name, tensor in tensors.items():
        if tensor is None:
            del state[name.replace("__", ".")]
        else:
            state[name.replace("__", ".")] = tensor
    torch.save(state, theirs / WEIGHTS)


@pytest.mark.parametrize(
    ("name", "tensor", "described", "sentence"),
    [
        ("text__cls_emb", None, True, r"text\.cls_emb"),
        ("text__cls_emb", None, False, r"text\.cls_emb"),
        ("surprise", torch.zeros(1), True, "surprise"),
        ("visual__proj", torch.zeros(3, 64), True, r"visual\.proj.*\(3, 64\)"),
        ("visual__attn_pool__attn__in_proj_bias", torch.zeros(7), True, "in_proj_bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_the_name_of_the_tensor(
    theirs: Path, name: str, tensor: torch.Tensor | None, described: bool, sentence: str
) -> None:
    changed(theirs, **{name: tensor})
    about = read_about(theirs / ABOUT) if described else None
    with pytest.raises(ModelError, match=sentence) as caught:
        imported(theirs, about=about)
    assert WEIGHTS in str(caught.value)
    assert not (theirs.parent / "ours").exists()


def test_another_kind_of_model_is_refused(theirs: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, theirs / WEIGHTS)
    with pytest.raises(ModelError, match="no weights of a CoCa of OpenCLIP"):
        imported(theirs)


@pytest.mark.parametrize(
    ("preprocess", "sentence"),
    [({"resize_mode": "longest"}, "'longest' are unknown here"), ({"mean": "grey"}, "mean")],
)
def test_an_unknown_way_to_prepare_images_is_refused(
    theirs: Path, preprocess: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        imported(theirs, about=About(from_open_clip(model_cfg()), preprocess))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "one JSON object"),
        ('{"model_cfg": {"embed_dim": 3}}', "no CoCa of OpenCLIP"),
    ],
)
def test_an_empty_description_is_refused_by_name(
    tmp_path: Path, content: str, sentence: str
) -> None:
    (tmp_path / ABOUT).write_text(content)
    with pytest.raises(ModelError, match=sentence) as caught:
        read_about(tmp_path / ABOUT)
    assert ABOUT in str(caught.value)


def test_a_description_may_be_the_part_on_the_model_alone(tmp_path: Path) -> None:
    (tmp_path / ABOUT).write_text(json.dumps(model_cfg()))
    assert read_about(tmp_path / ABOUT).model == from_open_clip(model_cfg())

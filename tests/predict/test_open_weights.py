import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from coca.core.errors import ConfigError, MissingExtraError, ModelError
from coca.core.files.atomic import sha256_file, user_cache
from coca.model.openclip.openclip_config import OpenCLIPConfig, from_open_clip
from coca.model.pretrained import load_model
from coca.predict import open_weights
from coca.predict.model_kinds import SOURCE_FILE, is_model
from coca.predict.open_weights import (
    OPENAI_MEAN,
    About,
    OpenWeights,
    Published,
    caveat_of,
    import_weights,
    read_about,
)
from coca.processing.processor import Processor
from folder_hub import FolderHub
from tiny_model import write_model
from tiny_openclip import ABOUT, CONTEXT, WEIGHTS, model_cfg, tiny_peer, write_open_clip


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model has a published size."""
    monkeypatch.setattr(
        OpenCLIPConfig, "presets", classmethod(lambda _: {"tiny": from_open_clip(model_cfg())})
    )


@pytest.fixture
def theirs(tmp_path: Path, published: None) -> Path:
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
    assert caveat_of(folder).endswith(": beware")
    assert caveat_of(imported(theirs)) == ""


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
    with pytest.raises(ModelError, match="not weights of a CoCa of OpenCLIP"):
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
        ('{"model_cfg": {"embed_dim": 3}}', "this is not OpenCLIP's CoCa"),
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


NAME, REPO = "coca_tiny/some_tag", "them/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: None) -> FolderHub:
    """A hub with one published model, whose vocabulary is in a repository of its own."""
    hub = FolderHub(tmp_path / "hub")
    write_open_clip(hub.root / REPO, about=False, vocabulary=False)
    write_open_clip(hub.root / "clip", about=False)
    known = {NAME: Published(REPO, WEIGHTS, "tiny", "beware")}
    monkeypatch.setattr(open_weights, "PUBLISHED", known)
    monkeypatch.setattr(open_weights, "installed_vocabulary", lambda: None)
    remote = open_weights._Remote("clip", "tokenizer.json")
    monkeypatch.setattr(open_weights, "_VOCABULARY", remote)
    return hub


@pytest.fixture
def weights(tmp_path: Path, hub: FolderHub) -> OpenWeights:
    return OpenWeights(tmp_path / "cache", hub)


def test_published_weights_are_fetched_translated_and_kept(
    weights: OpenWeights, hub: FolderHub
) -> None:
    folder = weights.published(NAME)
    assert is_model(folder)
    assert folder.is_relative_to(weights.cache)
    assert json.loads((folder / SOURCE_FILE).read_text())["source"] == f"openclip:{NAME}"
    assert caveat_of(folder).endswith(": beware")
    assert load_model(folder).config.embed_dim == 64
    asked = list(hub.fetched)
    assert weights.published(NAME) == folder
    assert hub.fetched == asked == ["clip/tokenizer.json", f"{REPO}/{WEIGHTS}"]


def test_an_unknown_name_is_reported_with_the_nearest(weights: OpenWeights) -> None:
    with pytest.raises(ConfigError, match="did you mean 'coca_tiny/some_tag'"):
        weights.published("coca_tiny/some_tags")


def test_without_a_hub_one_sentence_names_the_files_to_download(
    weights: OpenWeights, hub: FolderHub, tmp_path: Path
) -> None:
    shutil.move(hub.root, tmp_path / "elsewhere")
    with pytest.raises(ModelError) as caught:
        weights.published(NAME)
    sentence = str(caught.value)
    assert "\n" not in sentence
    paths = [
        weights.cache / "files" / "clip" / "tokenizer.json",
        weights.cache / "files" / "them--tiny" / WEIGHTS,
    ]
    for repo, path in zip(("clip", REPO), paths, strict=True):
        assert f"{path.name} of {repo} as {path}" in sentence
        path.parent.mkdir(parents=True)
        shutil.copy(tmp_path / "elsewhere" / repo / path.name, path)
    # With the files in place, it works; and files that exist are not requested.
    assert is_model(weights.published(NAME))
    assert hub.fetched == ["clip/tokenizer.json"]


def test_a_repository_of_open_clip_is_translated(weights: OpenWeights, hub: FolderHub) -> None:
    write_open_clip(hub.root / "some" / "one")
    folder = weights.repository("some/one")
    assert is_model(folder)
    assert weights.repository("some/one") == folder
    without_about = weights.repository(REPO)
    assert load_model(folder).config == load_model(without_about).config
    assert caveat_of(without_about).endswith(": beware")


def test_weights_that_cannot_hold_code_are_preferred(weights: OpenWeights, hub: FolderHub) -> None:
    folder = write_open_clip(hub.root / "some" / "one")
    save_file(torch.load(folder / WEIGHTS), folder / "open_clip_pytorch_model.safetensors")
    weights.repository("some/one")
    assert not [name for name in hub.fetched if name.endswith(".bin")]


def test_a_repository_of_ours_is_taken_as_it_is(weights: OpenWeights, hub: FolderHub) -> None:
    theirs = write_model(hub.root / "some" / "model")
    (theirs / "README.md").write_text("a card")
    folder = weights.repository("some/model")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "processor.json"):
        assert (folder / name).read_bytes() == (theirs / name).read_bytes()
    assert "some/model/README.md" not in hub.fetched


def test_a_revision_is_another_model(weights: OpenWeights, hub: FolderHub) -> None:
    write_model(hub.root / "some" / "model", seed=0)
    write_model(hub.root / "some" / "model@v2", seed=1)
    folders = [weights.repository(name) for name in ("some/model", "some/model@v2")]
    digests = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert digests[0] != digests[1]


def test_a_repository_without_a_model_is_reported(weights: OpenWeights, hub: FolderHub) -> None:
    (hub.root / "some" / "data").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"neither a model of ours .* nor weights of OpenCLIP"):
        weights.repository("some/data")


def test_a_missing_repository_is_an_error_that_names_the_folder_for_its_files(
    weights: OpenWeights, hub: FolderHub, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no such repository") as caught:
        weights.repository("some/model")
    path = weights.cache / "files" / "some--model"
    assert str(path) in str(caught.value)
    write_model(path)
    assert is_model(weights.repository("some/model"))


def test_a_local_file_or_its_folder_is_translated_once(
    weights: OpenWeights, hub: FolderHub, tmp_path: Path
) -> None:
    theirs = write_open_clip(tmp_path / "theirs")
    folder = weights.local(theirs / WEIGHTS)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert weights.local(theirs) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert json.loads((folder / SOURCE_FILE).read_text())["source"] == WEIGHTS
    assert hub.fetched == []


def test_a_local_file_that_changed_is_converted_again(weights: OpenWeights, tmp_path: Path) -> None:
    theirs = write_open_clip(tmp_path / "theirs")
    folder = weights.local(theirs)
    write_open_clip(theirs, seed=1)
    os.utime(theirs / WEIGHTS, ns=(0, 0))
    assert weights.local(theirs) != folder


def test_a_description_that_is_added_to_a_local_file_is_read(
    weights: OpenWeights, tmp_path: Path
) -> None:
    theirs = write_open_clip(tmp_path / "theirs")
    (theirs / ABOUT).unlink()
    assert Processor.load(weights.local(theirs)).image_config.mean == OPENAI_MEAN
    about = {"model_cfg": model_cfg(), "preprocess_cfg": {"mean": [0.5] * 3}}
    (theirs / ABOUT).write_text(json.dumps(about))
    assert Processor.load(weights.local(theirs)).image_config.mean == (0.5,) * 3


def test_a_missing_vocabulary_is_an_error_that_names_the_folder_for_it(
    weights: OpenWeights, hub: FolderHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_package(*_: object, **__: object) -> Path:
        raise MissingExtraError("huggingface_hub", "hub")

    theirs = write_open_clip(tmp_path / "theirs", vocabulary=False)
    shutil.rmtree(hub.root)
    with pytest.raises(ModelError, match=r"place tokenizer.json of clip as") as caught:
        weights.local(theirs)
    sentence = str(caught.value)
    assert sentence.startswith(f"{theirs / WEIGHTS} is there, but CLIP's vocabulary is not")
    # Without the package of the hub, too, it is the vocabulary that is missing.
    monkeypatch.setattr(hub, "fetch", without_package)
    with pytest.raises(ModelError, match="CLIP's vocabulary is not"):
        weights.local(theirs)


def test_a_folder_without_weights_is_reported(weights: OpenWeights, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has none of open_clip_model.safetensors"):
        weights.local(tmp_path)


def test_the_cache_is_in_the_cache_folder_of_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == OpenWeights().cache == tmp_path / "coca"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert user_cache() == tmp_path / "me" / ".cache" / "coca"

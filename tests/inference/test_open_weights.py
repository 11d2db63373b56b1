import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from coca.core.errors import ConfigError, MissingExtraError, ModelError
from coca.core.files.atomic import user_cache
from coca.inference import open_weights
from coca.inference.convert_openclip import SOURCE_FILE, caveat_of
from coca.inference.open_weights import PUBLISHED, OpenWeights, Published, is_model
from coca.model.openclip.config import OpenCLIPConfig, from_open_clip
from coca.model.pretrained import load_model
from tiny_model import write_model
from tiny_weights import WEIGHTS, FolderHub, model_cfg, write_open_clip

NAME, REPO = "coca_tiny/some_tag", "them/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHub:
    """A hub with one published model, whose vocabulary is in a repository of its own."""
    hub = FolderHub(tmp_path / "hub")
    write_open_clip(hub.root / REPO, about=False, vocabulary=False)
    write_open_clip(hub.root / "clip", about=False)
    published = {NAME: Published(REPO, WEIGHTS, "tiny", "beware")}
    monkeypatch.setattr(open_weights, "PUBLISHED", published)
    monkeypatch.setattr(
        OpenCLIPConfig, "presets", classmethod(lambda _: {"tiny": from_open_clip(model_cfg())})
    )
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
    assert caveat_of(folder) == "beware"
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


def test_only_files_that_are_missing_are_asked_for(
    weights: OpenWeights, hub: FolderHub, tmp_path: Path
) -> None:
    path = weights.cache / "files" / "clip" / "tokenizer.json"
    path.parent.mkdir(parents=True)
    shutil.copy(hub.root / "clip" / "tokenizer.json", path)
    shutil.move(hub.root, tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="of them/tiny as") as caught:
        weights.published(NAME)
    assert "clip as" not in str(caught.value)


def test_a_repository_of_open_clip_is_translated(weights: OpenWeights, hub: FolderHub) -> None:
    write_open_clip(hub.root / "some" / "one")
    folder = weights.repository("some/one")
    assert is_model(folder)
    assert weights.repository("some/one") == folder
    without_about = weights.repository(REPO)
    assert load_model(folder).config == load_model(without_about).config
    assert caveat_of(without_about) == "beware"


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


def test_the_vocabulary_may_be_named(hub: FolderHub, tmp_path: Path) -> None:
    theirs = write_open_clip(tmp_path / "theirs", vocabulary=False)
    own = hub.root / "clip" / "tokenizer.json"
    weights = OpenWeights(tmp_path / "cache", hub, vocabulary=own)
    assert is_model(weights.local(theirs, into=tmp_path / "ours"))
    assert not weights.cache.exists()
    assert hub.fetched == []


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
    assert "--vocabulary" in sentence
    # Without the package of the hub, too, it is the vocabulary that is missing.
    monkeypatch.setattr(hub, "fetch", without_package)
    with pytest.raises(ModelError, match="CLIP's vocabulary is not"):
        weights.local(theirs)


def test_a_folder_without_weights_is_reported(weights: OpenWeights, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds none of open_clip_model.safetensors"):
        weights.local(tmp_path)


def test_the_cache_is_in_the_cache_folder_of_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == OpenWeights().cache == tmp_path / "coca"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert user_cache() == tmp_path / "me" / ".cache" / "coca"


def test_all_four_published_models_are_known_and_one_is_not_for_search() -> None:
    assert len(PUBLISHED) == 4
    presets = OpenCLIPConfig.presets()
    for name, known in PUBLISHED.items():
        assert presets[known.preset].image.patch_size == int(name.split("/")[0].split("-")[-1])
        assert known.repo.startswith("laion/")
    beware = [name for name, known in PUBLISHED.items() if known.caveat]
    assert beware == ["coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k"]
    assert "0.8 %" in PUBLISHED[beware[0]].caveat

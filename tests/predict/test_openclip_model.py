"""Image-text models of OpenCLIP, built by open_clip with random weights, against open_clip."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("timm", reason="the extra train is not installed")

import open_clip
import torch
from PIL import Image

import coca
from coca.core.errors import ConfigError, MissingExtraError, ModelError, UnsupportedError
from coca.predict.image_text_predictor import ImageTextPredictor
from coca.predict.open_weights import OpenWeights, model_folder
from coca.predict.torch_loading import load_coca
from folder_hub import FolderHub
from tiny_data import image_bytes
from tiny_image_text import OPENCLIP, TEXTS, awkward_images, unit, upright_rgb, write_openclip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_openclip(tmp_path_factory.mktemp("openclip") / "clip")


@pytest.mark.parametrize(
    "family",
    [pytest.param(it, marks=pytest.mark.slow) if it == "eva" else it for it in OPENCLIP],
)
def test_vectors_equal_those_of_open_clip(family: str, tmp_path: Path) -> None:
    folder = write_openclip(tmp_path, family)
    loaded = coca.load(folder, device="cpu", batch_size=7)
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer, images = open_clip.get_tokenizer(name), awkward_images()
    with torch.inference_mode():
        pixels = torch.stack([preprocess(upright_rgb(image)) for image in images])
        of_images = unit(model.eval().encode_image(pixels))
        of_texts = unit(model.encode_text(tokenizer(TEXTS)))
    assert len(images) == len(TEXTS) == 30
    np.testing.assert_allclose(loaded.embed_images(images), of_images, atol=1e-6, rtol=0)
    np.testing.assert_allclose(loaded.embed_texts(TEXTS), of_texts, atol=1e-6, rtol=0)
    # Distances of 0.01 and above: vectors of other images do not pass.
    assert (of_images @ of_images.T).min() < 0.9999
    assert loaded.embed_dim == of_images.shape[1]
    assert loaded.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    squares = [loaded.prepare_image(image) for image in images]
    np.testing.assert_allclose(loaded.embed_prepared(squares), of_images, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_tokens_are_counted_as_the_tokenizer_does(family: str, tmp_path: Path) -> None:
    loaded = coca.load(write_openclip(tmp_path, family), device="cpu")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    special = loaded.context_length - loaded.max_text_tokens
    (ids,) = tokenizer(["a dog"]).tolist()
    length = len(loaded.leading_ids("a dog", 99)) + special
    assert loaded.leading_ids("a dog", 2) == ids[special - 1 : special + 1]
    assert len(set(ids[length:])) == 1
    assert tokenizer(["a dog " * 99]).shape[1] == loaded.context_length


@pytest.mark.slow
def test_the_fingerprint_is_that_of_weights_tokenizer_and_preprocessing(tmp_path: Path) -> None:
    folder = write_openclip(tmp_path, "siglip")
    code = f"import coca; print(coca.load({str(folder)!r}, device='cpu').fingerprint)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before = coca.load(folder, device="cpu").fingerprint
    assert run.stdout.split()[-1] == before
    (folder / "README.md").write_text("a model", encoding="utf-8")
    assert coca.load(folder, device="cpu").fingerprint == before
    found = {before}
    config = folder / "open_clip_config.json"
    about = json.loads(config.read_text())
    about["preprocess_cfg"]["mean"] = [0.4] * 3
    config.write_text(json.dumps(about))
    found.add(coca.load(folder, device="cpu").fingerprint)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("NFKC", "NFC"))
    found.add(coca.load(folder, device="cpu").fingerprint)
    weights = folder / "open_clip_pytorch_model.bin"
    state = torch.load(weights)
    state["logit_scale"] += 0.1
    torch.save(state, weights)
    found.add(coca.load(folder, device="cpu").fingerprint)
    assert len(found) == 4


def test_what_needs_a_decoder_names_the_remedy(folder: Path) -> None:
    loaded, image = coca.load(folder, device="cpu"), image_bytes(0)
    assert not loaded.has_decoder
    for call in (
        lambda: loaded.caption([image]),
        lambda: loaded.score([image], ["a dog"]),
        lambda: loaded.classify([image], ["a dog"], by="likelihood"),
        lambda: loaded.answer([image], ["what is it?"]),
        lambda: loaded.caption_clips([[image]]),
    ):
        with pytest.raises(UnsupportedError, match="use a CoCa model for these, such as everyday"):
            call()
    with pytest.raises(ModelError, match="this needs a CoCa model"):
        load_coca(folder)


@pytest.mark.parametrize("family", ["clip", "siglip", "mobileclip"])
def test_vectors_in_bf16_are_close(family: str, tmp_path: Path) -> None:
    folder, images = write_openclip(tmp_path, family), awkward_images()
    whole = coca.load(folder, device="cpu")
    lower = coca.load(folder, device="cpu", precision="bf16")
    of_texts, of_images = lower.embed_texts(TEXTS), lower.embed_images(images)
    assert of_texts.dtype == of_images.dtype == np.float32
    assert (of_texts * whole.embed_texts(TEXTS)).sum(axis=1).min() > 0.99
    assert (of_images * whole.embed_images(images)).sum(axis=1).min() > 0.99
    assert not np.array_equal(of_texts, whole.embed_texts(TEXTS))


def test_the_modules_of_the_library_stay_for_training(folder: Path) -> None:
    kept = coca.load(folder, device="cpu", prepack=False)
    model = open_clip.create_model(f"local-dir:{folder}")
    assert isinstance(kept, ImageTextPredictor)
    assert kept.model.state_dict().keys() == model.state_dict().keys()
    np.testing.assert_allclose(
        kept.embed_texts(TEXTS), coca.load(folder).embed_texts(TEXTS), atol=1e-6, rtol=0
    )


def test_a_photo_is_decoded_at_a_reduced_scale_below_fp32(folder: Path) -> None:
    photo = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8)).save(
        photo, "JPEG"
    )
    whole, half = (coca.load(folder, device="cpu", precision=it) for it in ("fp32", "bf16"))
    assert not np.array_equal(
        whole.prepare_image(photo.getvalue()), half.prepare_image(photo.getvalue())
    )


def test_a_device_without_data_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="device 'meta' has no data"):
        coca.load(folder, device="meta")


@pytest.fixture
def architecture(tmp_path: Path) -> str:
    """A further architecture of open_clip, by its name."""
    config = {"embed_dim": 32, **OPENCLIP["clip"]}
    (tmp_path / "ViT-tiny.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(tmp_path / "ViT-tiny.json")
    return "ViT-tiny"


def test_a_checkpoint_is_loaded_by_its_architecture(
    architecture: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights = folder / "open_clip_pytorch_model.bin"
    by_name = coca.load(f"openclip:{architecture}/{weights}", device="cpu")
    expected = coca.load(folder, device="cpu").embed_texts(TEXTS)
    np.testing.assert_array_equal(by_name.embed_texts(TEXTS), expected)
    assert coca.load(by_name.source, device="cpu").fingerprint == by_name.fingerprint


def test_published_weights_are_reported_fetched_and_saved_once(
    architecture: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    about = {"hf_hub": "some/tiny/", "quick_gelu": True, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, architecture, {"mine": about})
    hub = FolderHub(tmp_path / "hub")
    (tmp_path / "hub" / "some").mkdir(parents=True)
    (tmp_path / "hub" / "some" / "tiny").symlink_to(folder)
    source = OpenWeights(tmp_path / "cache", hub)
    saved = model_folder(f"openclip:{architecture}/mine", open_weights=source)
    assert model_folder(f"openclip:{architecture}/mine", open_weights=source) == saved
    assert hub.fetched == ["some/tiny/open_clip_pytorch_model.bin"]
    assert "is downloaded from some/tiny: 1 files, licence mit" in caplog.text
    model, _, preprocess = open_clip.create_model_and_transforms(
        architecture,
        pretrained=str(folder / "open_clip_pytorch_model.bin"),
        force_quick_gelu=True,
        image_mean=(0.5,) * 3,
        image_std=(0.5,) * 3,
    )
    with torch.inference_mode():
        image = preprocess(upright_rgb(image_bytes(1)))
        expected = unit(model.eval().encode_image(image[None]))
    found = coca.load(saved, device="cpu").embed_images([image_bytes(1)])
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_a_repository_of_open_clip_is_copied_with_its_tokenizer(tmp_path: Path) -> None:
    repository = write_openclip(tmp_path / "hub" / "some" / "siglip", "siglip")
    source = OpenWeights(tmp_path / "cache", FolderHub(tmp_path / "hub"))
    saved = model_folder("hf:some/siglip", open_weights=source)
    assert saved.is_relative_to(tmp_path / "cache")
    found, expected = (coca.load(it, device="cpu").embed_texts(TEXTS) for it in (saved, repository))
    np.testing.assert_array_equal(found, expected)


MISSING = (
    r"cannot be fetched .*fetch open_clip_model.safetensors or .* of the repository "
    r"timm/vit_base_patch32_clip_224.openai by other means and place them in .*timm--"
)


def test_unknown_names_missing_extras_and_a_missing_network_are_one_sentence(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = OpenWeights(tmp_path / "cache", FolderHub(tmp_path / "hub"))
    with pytest.raises(ConfigError, match="did you mean 'ViT-B-32/openai'"):
        source.published("ViT-B-32/openaj")
    with pytest.raises(ConfigError, match="it needs a tag: openclip:ViT-B-32/openai, "):
        source.published("ViT-B/32")
    for name in ("ViT-B/32", "ViT-B-32"):
        with pytest.raises(ModelError, match="; use openclip:ViT-B-32/openai or openclip:ViT-B-"):
            model_folder(name)
    with pytest.raises(ConfigError, match="is unknown; did you mean"):
        source.published("coca_ViT-B-32/nothing")
    weights = tmp_path / "weights.pt"
    torch.save({"other": torch.zeros(1)}, weights)
    with pytest.raises(ConfigError, match="did you mean 'ViT-tiny'"):
        source.published(f"ViT-tini/{weights}")
    with pytest.raises(ModelError, match=r"weights\.pt cannot be loaded: Error") as error:
        source.published(f"{architecture}/{weights}")
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match=MISSING) as error:
        source.published("ViT-B-32/openai")
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[openclip\]"):
        source.published("ViT-B-32/openai")
    with pytest.raises(ModelError, match=r"use openclip:ViT-B-32/TAG \(extra `openclip`\)"):
        model_folder("ViT-B/32")


def test_a_damaged_folder_is_reported_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    for name in ("open_clip_config.json", "open_clip_pytorch_model.bin"):
        (tmp_path / name).write_bytes((folder / name).read_bytes()[:2000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        coca.load(tmp_path)
    (tmp_path / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="could not be loaded"):
        coca.load(tmp_path)


def test_python_code_of_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    folder, ran = write_openclip(tmp_path / "siglip", "siglip"), tmp_path / "ran"
    path = folder / "open_clip_config.json"
    about = json.loads(path.read_text())
    about["model_cfg"]["text_cfg"].setdefault("tokenizer_kwargs", {})["trust_remote_code"] = True
    path.write_text(json.dumps(about))
    code = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(code))
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Own: pass\n")
    with pytest.raises(ModelError, match="contains custom code"):
        coca.load(folder, device="cpu")
    assert not ran.exists()

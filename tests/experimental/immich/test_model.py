"""Folders in immich's layout, as its exporter writes them from models of OpenCLIP."""

import gzip
import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

pytest.importorskip("onnxscript", reason="needs the extra onnx; the library is missing")

import onnxruntime
import open_clip
import torch
import transformers

import coca
from coca.core.errors import ConfigError, ModelError, UnsupportedError
from coca.experimental.immich.model import ImmichPredictor
from coca.inference.open_weights import OpenWeights
from coca.processing.clip_bpe import installed_vocabulary
from folder_hub import FolderHub
from tiny_image_text import TEXTS, awkward_images, unit, upright_rgb, write_openclip

pytestmark = pytest.mark.timeout(1800)

FAMILIES = ("clip", "siglip")
LIBRARY: Any = transformers


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def export(module: Any, name: str, inputs: tuple[torch.Tensor, ...], path: Path) -> None:
    """Export as immich does: one row, fixed sizes."""
    names = [name] if len(inputs) == 1 else ["input_ids", "attention_mask"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), inputs, path, input_names=names, output_names=["out"])


def save_clip_tokenizer(folder: Path) -> None:
    """Save the tokenizer of openai/clip-vit-base-patch32, from the merges of open_clip."""
    source = installed_vocabulary()
    assert source is not None
    with gzip.open(source, "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : 49152 - 256 - 2 + 1]]
    vocabulary = open_clip.SimpleTokenizer().encoder
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): id for token, id in vocabulary.items()}
    LIBRARY.CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(folder)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A folder of OpenCLIP, and its export in immich's layout."""
    root = tmp_path_factory.mktemp(request.param)
    source, out = write_openclip(root / "openclip", request.param), root / "immich"
    model = open_clip.create_model(f"local-dir:{source}").eval()
    config = json.loads((source / "open_clip_config.json").read_text())["model_cfg"]
    for name in ("visual", "textual"):
        (out / name).mkdir(parents=True)
    write_json(out / "config.json", config)
    write_json(out / "visual" / "preprocess_cfg.json", model.visual.preprocess_cfg)
    model.forward = lambda image: model.encode_image(image, normalize=True)
    export(model, "image", (torch.randn(1, 3, 32, 32),), out / "visual" / "model.onnx")
    model.forward = lambda text: model.encode_text(text, normalize=True)
    length = config["text_cfg"]["context_length"]
    ids = torch.ones(1, length, dtype=torch.int32)
    export(model, "text", (ids,), out / "textual" / "model.onnx")
    if request.param == "clip":
        save_clip_tokenizer(out / "textual")
    else:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(source / name, out / "textual" / name)
    (out / "README.md").write_text("---\ntags: [immich]\n---\n", encoding="utf-8")
    return [source, out]


def ids_of_service(folder: Path, texts: Sequence[str], *, canonical: bool) -> np.ndarray:
    """The steps of immich's service."""
    config = json.loads((folder / "config.json").read_text())["text_cfg"]
    length = config["context_length"]
    pad = json.loads((folder / "textual" / "tokenizer_config.json").read_text())["pad_token"]
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "textual" / "tokenizer.json"))
    tokenizer.enable_padding(length=length, pad_token=pad, pad_id=tokenizer.token_to_id(pad))
    tokenizer.enable_truncation(max_length=length)
    joined = [" ".join(text.split()) for text in texts]
    if canonical:
        marks = dict.fromkeys(map(ord, r"""!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~"""))
        joined = [text.translate(marks).lower() for text in joined]
    return np.array([tokenizer.encode(text).ids for text in joined], np.int32)


def test_vectors_equal_those_of_open_clip_and_of_the_service(pair: list[Path]) -> None:
    source, out = pair
    loaded = ImmichPredictor(out, batch_size=7)
    name = f"local-dir:{source}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    images = awkward_images()
    with torch.inference_mode():
        pixels = torch.stack([preprocess(upright_rgb(image)) for image in images])
        of_images = unit(model.eval().encode_image(pixels))
    np.testing.assert_allclose(loaded.embed_images(images), of_images, atol=1e-6, rtol=0)
    assert (of_images @ of_images.T).min() < 0.9999

    ids = ids_of_service(out, TEXTS, canonical="siglip" in str(source))
    session = onnxruntime.InferenceSession(str(out / "textual" / "model.onnx"))
    of_service = np.concatenate([session.run(None, {"text": row[None]})[0] for row in ids])
    found = loaded.embed_texts(TEXTS)
    np.testing.assert_allclose(found, of_service, atol=1e-6, rtol=0)
    # The service has no repairs of ftfy and no HTML entities.
    theirs = open_clip.get_tokenizer(name)(TEXTS)
    width = loaded.context_length
    same = [row for row in range(30) if _content(ids[row], width) == _content(theirs[row], width)]
    assert len(same) >= 20
    with torch.inference_mode():
        of_texts = unit(model.encode_text(theirs[same]))
    np.testing.assert_allclose(found[same], of_texts, atol=1e-6, rtol=0)


def _content(row: Any, width: int) -> list[int]:
    """Ids up to and with the end token, which CLIP repeats as padding and SigLIP pads with 0."""
    ids = [int(id) for id in row]
    end = next((place for place, id in enumerate(ids) if id in (49407, 1)), width)
    return ids[: end + 1]


def test_the_settings_are_those_of_the_folder(pair: list[Path]) -> None:
    source, out = pair
    loaded, config = coca.load(out, batch_size=3), json.loads((out / "config.json").read_text())
    assert not loaded.has_decoder
    assert loaded.embed_dim == config["embed_dim"]
    assert loaded.context_length == config["text_cfg"]["context_length"]
    special = 2 if "siglip" not in str(source) else 1
    assert loaded.max_text_tokens == loaded.context_length - special
    assert len(loaded.leading_ids("word " * 4000, 40)) == 40
    assert loaded.logit_scale == 100
    assert loaded.classify(awkward_images()[:2], ["cat", "dog"])
    with pytest.raises(UnsupportedError, match="has no decoder"):
        loaded.caption(awkward_images()[0])


def test_a_change_of_any_file_changes_the_fingerprint(pair: list[Path], tmp_path: Path) -> None:
    known = {ImmichPredictor(pair[1]).fingerprint}
    for name in ("config.json", "visual/preprocess_cfg.json", "textual/tokenizer_config.json"):
        copy = shutil.copytree(pair[1], tmp_path / name.replace("/", "-"))
        (copy / name).write_text((copy / name).read_text() + "\n", encoding="utf-8")
        known.add(ImmichPredictor(copy).fingerprint)
    (copy / "README.md").unlink()
    known.add(ImmichPredictor(copy).fingerprint)
    assert len(known) == 4


def test_a_repository_of_immich_is_copied(pair: list[Path], tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "immich-app" / "model"
    shutil.copytree(pair[1], repository)
    (repository / "visual" / "model.armnn").write_bytes(b"for another runtime")
    hub = FolderHub(tmp_path / "hub")
    saved = OpenWeights(tmp_path / "cache", hub).of_kind("immich", "immich-app/model")
    assert coca.load(saved).fingerprint == coca.load(pair[1]).fingerprint
    assert not {"README.md", "visual/model.armnn"} & set(hub.fetched)


class Pooled(torch.nn.Module):
    """Mean over the tokens that a mask keeps, as in Multilingual CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(300, 64)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        vectors, mask = self.embedding(input_ids), attention_mask.unsqueeze(2)
        mean = (vectors * mask).sum(dim=1) / mask.sum(dim=1)
        return torch.nn.functional.normalize(mean, dim=-1)


def test_multilingual_clip_reads_a_mask(pair: list[Path], tmp_path: Path) -> None:
    if "siglip" not in str(pair[0]):
        pytest.skip("needs the tokenizer of few tokens")
    copy = shutil.copytree(pair[1], tmp_path / "model")
    torch.manual_seed(0)
    module, ones = Pooled(), torch.ones(1, 16, dtype=torch.int32)
    export(module, "", (ones, ones.clone()), copy / "textual" / "model.onnx")
    (found,) = ImmichPredictor(copy).embed_texts(["ab"])
    backend = tokenizers.Tokenizer.from_file(str(copy / "textual" / "tokenizer.json"))
    ids = torch.tensor([backend.encode("ab").ids])
    with torch.inference_mode():
        (expected,) = module(ids, torch.ones_like(ids)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_folder_that_cannot_be_used_is_an_error(pair: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(pair[1], tmp_path / "model")
    with pytest.raises(ConfigError, match="in fp32, got precision bf16"):
        coca.load(copy, precision="bf16")
    preprocess = copy / "visual" / "preprocess_cfg.json"
    content = json.loads(preprocess.read_text())
    write_json(preprocess, {**content, "resize_mode": "longest"})
    with pytest.raises(ModelError, match="resized by 'longest'; supported are squares"):
        ImmichPredictor(copy)
    write_json(preprocess, content)
    config = json.loads((copy / "config.json").read_text())
    write_json(copy / "config.json", {**config, "embed_dim": None})
    with pytest.raises(ModelError, match="does not describe an image-text model"):
        ImmichPredictor(copy)
    write_json(copy / "config.json", config)
    (copy / "visual" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"visual/model\.onnx cannot be loaded"):
        ImmichPredictor(copy).embed_images(awkward_images()[:1])

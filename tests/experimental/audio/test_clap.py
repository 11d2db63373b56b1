"""CLAP: vectors equal to those of transformers, and audio that is indexed and found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import coca
from coca.core.errors import ConfigError, DataError, UnsupportedError
from coca.experimental.audio.clap import ClapPredictor
from coca.experimental.audio.spectrogram import read_audio
from coca.workflows.collections.image_sources import SourceUri, resolve_uris
from tiny_audio import tone, wav
from tiny_data import image_bytes
from tiny_image_text import TEXTS, byte_tokenizer, randomized, unit

library: Any = pytest.importorskip("transformers", reason="needs the extra `transformers`")
pytest.importorskip("av", reason="needs the extra `audio`")

CLIPS = [
    wav(tone(440, 0.5, 48_000), 48_000),
    wav(tone(3_000, 2.0)),
    wav(np.random.default_rng(0).uniform(-0.1, 0.1, 8_000 * 12), 8_000),
]


def write_clap(folder: Path, truncation: str = "rand_trunc") -> Path:
    """Write a CLAP model with random weights, built by transformers."""
    is_fused = truncation == "fusion"
    config = library.ClapConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vocab_size": 300,
            "max_position_embeddings": 24,
            "pad_token_id": 0,
            "projection_dim": 20,
        },
        audio_config={
            "patch_embeds_hidden_size": 16,
            "hidden_size": 32,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "projection_dim": 20,
            "num_classes": 5,
            "enable_fusion": is_fused,
        },
        projection_dim=20,
    )
    torch.manual_seed(0)
    model: Any = randomized(library.ClapModel(config))
    model.save_pretrained(folder)
    library.ClapFeatureExtractor(truncation=truncation).save_pretrained(folder)
    tokenizer = library.PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), pad_token="<pad>", eos_token="</s>", model_max_length=24
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clap(tmp_path_factory.mktemp("clap"))


@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
def test_vectors_equal_those_of_the_library(tmp_path: Path, truncation: str) -> None:
    folder = write_clap(tmp_path / "clap", truncation)
    predictor = coca.load(folder, device="cpu", precision="fp32")
    assert isinstance(predictor, ClapPredictor)
    model = library.ClapModel.from_pretrained(folder).eval()
    extractor = library.ClapFeatureExtractor.from_pretrained(folder)
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    expected = []
    for clip in CLIPS:
        samples = read_audio(clip, "clip", rate=48_000, length_s=10.0)
        inputs = extractor(samples, sampling_rate=48_000, return_tensors="pt")
        with torch.inference_mode():
            expected.append(unit(model.get_audio_features(**inputs).pooler_output)[0])
    assert np.abs(predictor.embed_images(CLIPS) - np.stack(expected)).max() < 1e-5
    inputs = tokenizer(
        TEXTS,
        padding=True,
        truncation=True,
        max_length=predictor.context_length,
        return_tensors="pt",
    )
    with torch.inference_mode():
        texts = model.get_text_features(inputs.input_ids, inputs.attention_mask).pooler_output
    assert np.abs(predictor.embed_texts(TEXTS) - unit(texts)).max() < 1e-5
    assert predictor.logit_scale == pytest.approx(float(model.logit_scale_a.detach().exp()))


def test_what_it_cannot_do_is_one_sentence(folder: Path) -> None:
    predictor = coca.load(folder, device="cpu")
    with pytest.raises(DataError, match="not audio of a known kind"):
        predictor.embed_images([image_bytes(0)])
    with pytest.raises(DataError, match="not audio, which this model reads"):
        predictor.embed_images([np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(UnsupportedError, match="no decoder"):
        predictor.caption(CLIPS[:1])


def test_sounds_are_indexed_by_name_and_not_with_the_images_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.WAV").write_bytes(wav(tone(440, 0.1)))
    assert resolve_uris([tmp_path / "a.WAV"]) == [SourceUri(str(tmp_path / "a.WAV"), "image")]
    (tmp_path / "a.mid").write_bytes(b"MThd")
    with pytest.raises(ConfigError, match="cannot be indexed"):
        resolve_uris([tmp_path / "a.mid"])

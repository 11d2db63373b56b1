from pathlib import Path

import numpy as np
import pytest
import torch

from coca.core.errors import ConfigError, DataError
from coca.model.encoders.encoder import EncodedImages
from coca.model.generation.generation_config import GenerationConfig
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.predict.video import (
    caption_files,
    caption_videos,
    classify_files,
    embed_clips,
    embed_files,
    embed_videos,
    require_single_images,
)
from coca.processing.video import sample_frames
from tiny_data import image_bytes
from tiny_model import write_model
from tiny_video import video


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> TorchPredictor:
    return load_coca(write_model(tmp_path_factory.mktemp("model")), device="cpu", batch_size=3)


CLIPS = [
    [image_bytes(0), image_bytes(1)],
    [image_bytes(2)],
    [image_bytes(3), image_bytes(4), image_bytes(5)],
]


def test_the_mean_of_frames_is_that_of_their_vectors(predictor: TorchPredictor) -> None:
    vectors = embed_clips(predictor, CLIPS)
    for clip, vector in zip(CLIPS, vectors, strict=True):
        mean = predictor.embed_images(clip).mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_flattening_lets_the_poolers_read_all_frames_at_once(predictor: TorchPredictor) -> None:
    model = predictor.model
    flat = embed_clips(predictor, CLIPS, mode="flatten")
    with torch.inference_mode():
        tokens = [model.image_encoder(predictor.processor.images(clip)) for clip in CLIPS]
        for parts, vector in zip(tokens, flat, strict=True):
            whole = EncodedImages(parts.reshape(1, -1, parts.shape[2]))
            wanted = model.pool_embedding(whole)[0].numpy()
            np.testing.assert_allclose(vector, wanted, atol=1e-5)
    assert not np.allclose(flat[0], embed_clips(predictor, CLIPS)[0], atol=1e-3)


@pytest.mark.parametrize("mode", ["mean", "flatten"])
def test_an_image_shown_for_long_is_that_image(predictor: TorchPredictor, mode: str) -> None:
    still = embed_clips(predictor, [[image_bytes(0)] * 4], mode=mode)  # type: ignore[arg-type]
    np.testing.assert_allclose(still, predictor.embed_images([image_bytes(0)]), atol=1e-5)


@pytest.mark.parametrize("mode", ["mean", "flatten"])
def test_the_order_of_frames_does_not_count(predictor: TorchPredictor, mode: str) -> None:
    forward, backward = embed_clips(predictor, [CLIPS[2], CLIPS[2][::-1]], mode=mode)  # type: ignore[arg-type]
    np.testing.assert_allclose(forward, backward, atol=1e-5)


def test_a_video_is_embedded_and_captioned_by_its_frames(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(video(frames=12))
    frames = [frame.pixels for frame in sample_frames(path, 4)]
    (vector,) = embed_videos(predictor, path, frames=4)
    np.testing.assert_allclose(vector, embed_clips(predictor, [frames])[0], atol=1e-6)
    (caption,) = caption_videos(predictor, [path], frames=4, num_beams=1)
    (again,) = caption_videos(predictor, [path], frames=4, num_beams=1)
    assert caption.text == again.text


def test_images_and_videos_keep_their_order(predictor: TorchPredictor, tmp_path: Path) -> None:
    still, film, other = (str(tmp_path / name) for name in ("a.png", "b.mp4", "c.png"))
    Path(still).write_bytes(image_bytes(0))
    Path(other).write_bytes(image_bytes(1))
    Path(film).write_bytes(video(frames=8))
    rows = embed_files(predictor, [still, film, other])
    np.testing.assert_allclose(rows[[0, 2]], predictor.embed_images([still, other]), atol=1e-6)
    np.testing.assert_allclose(rows[1], embed_videos(predictor, film)[0], atol=1e-6)
    captions = caption_files(predictor, [film, still], decoding=GenerationConfig(num_beams=1))
    assert captions[1].text == predictor.caption(still, num_beams=1)[0].text


def test_labels_of_a_video_are_those_nearest_to_its_frames(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    film, still = str(tmp_path / "b.mp4"), str(tmp_path / "a.png")
    Path(film).write_bytes(video(frames=8))
    Path(still).write_bytes(image_bytes(0))
    labels = ["a red car", "two dogs play"]
    of_film, of_still = classify_files(predictor, [film, still], labels)
    cosines = embed_videos(predictor, film) @ predictor.class_embeddings(labels).T
    assert of_film[0].label == labels[int(cosines.argmax())]
    alone = predictor.classify(still, labels)[0]
    assert [one.label for one in of_still] == [one.label for one in alone]
    with pytest.raises(ConfigError, match="by similarity only"):
        classify_files(predictor, [film], labels, by="likelihood")
    with pytest.raises(ConfigError, match="no head"):
        classify_files(predictor, [film], [])


def test_an_empty_clip_and_clips_where_images_are_wanted_are_reported(
    predictor: TorchPredictor,
) -> None:
    with pytest.raises(DataError, match="clip 1 has no image"):
        embed_clips(predictor, [[image_bytes(0)], []])
    require_single_images([[image_bytes(0)]], "rerank")
    with pytest.raises(ConfigError, match="rerank reads one image"):
        require_single_images(CLIPS, "rerank")

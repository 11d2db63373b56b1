"""Video inference: embed, classify and caption clips of several frames.

    embed_videos(predictor, ["clip.mp4"]) @ predictor.embed_texts(["a dog runs"]).T

`mean` averages the embeddings of the frames, as in the paper's zero-shot video-text retrieval (16
frames, section 4.2). `flatten` pools the tokens of all frames at once, without new parameters
(VideoCoCa, arXiv 2212.04979); it is intended for models that are trained in this way.

Dimensions: N clips, E shared embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias, Unpack

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from coca.core.errors import ConfigError, DataError
from coca.core.files.formats import VIDEO_SUFFIXES
from coca.core.progress import progress_bar
from coca.model.generation.generation_config import GenerationConfig, GenerationOptions
from coca.predict.inputs import Caption, Prediction, predictions
from coca.predict.predictor import Predictor
from coca.predict.prompts import PROMPTS, Templates
from coca.processing.image_file import ImageInput
from coca.processing.video import VideoSource, clip_frames

Mode: TypeAlias = Literal["mean", "flatten"]

FRAMES = 16
"""Default number of frames, as in the paper's video-text retrieval."""


def embed_clips(
    predictor: Predictor,
    clips: Sequence[Sequence[ImageInput]],
    *,
    mode: Mode = "mean",
) -> Float[ndarray, "N E"]:
    """Compute one unit-norm embedding per clip."""
    if empty := [position for position, clip in enumerate(clips) if not clip]:
        raise DataError(f"clip {empty[0]} has no image", reason="no_frames")
    if all(len(clip) == 1 for clip in clips):
        return predictor.embed_images([clip[0] for clip in clips])
    if mode == "flatten":
        return predictor.embed_clips(clips)
    vectors = predictor.embed_images([one for clip in clips for one in clip])
    ends = np.cumsum([len(clip) for clip in clips])
    stacked = np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])
    return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


def embed_videos(
    predictor: Predictor,
    videos: VideoSource | Sequence[VideoSource],
    *,
    frames: int = FRAMES,
    mode: Mode = "mean",
) -> Float[ndarray, "N E"]:
    """Compute one unit-norm embedding per video; a single video is a list of one.

    Raises:
        DataError: A video cannot be read.
        MissingExtraError: The extra `video` is not installed.
    """
    listed = _as_videos(videos)
    rows = []
    with progress_bar("embedding videos", len(listed)) as bar:
        # One video at a time, to bound the memory for frames.
        for video in listed:
            rows.append(embed_clips(predictor, [clip_frames(video, frames)], mode=mode))
            bar.advance()
    return np.concatenate(rows) if rows else np.zeros((0, predictor.embed_dim), np.float32)


def caption_videos(
    predictor: Predictor,
    videos: VideoSource | Sequence[VideoSource],
    *,
    frames: int = FRAMES,
    prompt: str = "",
    decoding: GenerationConfig | None = None,
    **options: Unpack[GenerationOptions],
) -> list[Caption]:
    """Caption each video as a whole: the decoder reads the pooled tokens of all frames."""
    decoding = GenerationConfig.of(decoding, **options)
    captions = []
    listed = _as_videos(videos)
    with progress_bar("captioning videos", len(listed)) as bar:
        # One video at a time, to bound the memory for frames.
        for video in listed:
            clips = [clip_frames(video, frames)]
            captions += predictor.caption_clips(clips, prompt=prompt, decoding=decoding)
            bar.advance()
    return captions


def is_video(path: str | Path) -> bool:
    """Check by its suffix whether a file is a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def embed_files(predictor: Predictor, files: Sequence[str]) -> Float[ndarray, "N E"]:
    """Compute one unit-norm embedding per file, image or video, in order."""
    stills = predictor.embed_images([file for file in files if not is_video(file)])
    videos = embed_videos(predictor, [file for file in files if is_video(file)])
    rows = np.empty((len(files), predictor.embed_dim), np.float32)
    moving = np.array([is_video(file) for file in files], bool)
    rows[~moving], rows[moving] = stills, videos
    return rows


def classify_files(
    predictor: Predictor,
    files: Sequence[str],
    labels: Sequence[str],
    *,
    templates: Templates = PROMPTS["plain"],
    by: Literal["similarity", "likelihood"] = "similarity",
) -> list[list[Prediction]]:
    """Classify images and videos: rank the labels by probability for each file."""
    moving = [file for file in files if is_video(file)]
    if not labels:
        frames = predictor.images_per_sample
        return predictor.answer(
            [clip_frames(one, frames) if is_video(one) else one for one in files]
        )
    if not moving:
        return predictor.classify(files, labels, templates=templates, by=by)
    if by == "likelihood":
        raise ConfigError(f"{moving[0]} is a video, which is compared by similarity only")
    classes = predictor.class_embeddings(labels, templates=templates)
    cosines = embed_files(predictor, files) @ classes.T
    return predictions(predictor.logit_scale * cosines, labels)


def caption_files(
    predictor: Predictor,
    files: Sequence[str],
    *,
    prompt: str = "",
    decoding: GenerationConfig | None = None,
) -> list[Caption]:
    """Caption each file, image or video, in order."""
    stills = [file for file in files if not is_video(file)]
    videos = [file for file in files if is_video(file)]
    of_stills = iter(predictor.caption(stills, prompt=prompt, decoding=decoding))
    of_videos = iter(caption_videos(predictor, videos, prompt=prompt, decoding=decoding))
    return [next(of_videos if is_video(file) else of_stills) for file in files]


def require_single_images(clips: Sequence[Sequence[ImageInput]], what: str) -> None:
    """Check that each clip has a single image, for methods that support only one."""
    if any(len(clip) > 1 for clip in clips):
        raise ConfigError(f"{what} reads one image a sample, and these have several; leave it out")


def _as_videos(videos: VideoSource | Sequence[VideoSource]) -> Sequence[VideoSource]:
    return [videos] if isinstance(videos, str | bytes | Path) else videos

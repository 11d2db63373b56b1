import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coca.core.errors import ConfigError, DataError
from coca.data.sample import Sample
from coca.inference.predictor import Predictor
from coca.processing.image import decode
from coca.tasks import TASKS, TaskConfig
from coca.tasks.retrieval.image_retrieval import THUMBNAIL_PX
from tiny_data import image_bytes
from tiny_datasets import write_folder

PIXEL_FLOOR = TASKS.get("pixel_floor")
NAMES = [f"thing {number}" for number in range(12)]


def samples(names: list[str], *, first: int = 0, side: int = 12) -> list[Sample]:
    return [
        Sample(
            f"s{number:02d}",
            image_bytes(first + number, side=side),
            captions=(name, "another name"),
        )
        for number, name in enumerate(names)
    ]


def solve(
    predictor: Predictor, root: Path, data: list[Sample], known: list[Sample]
) -> dict[str, float]:
    config = TaskConfig(
        task="pixel_floor",
        data=write_folder(root / "data", data),
        reference=write_folder(root / "known", known),
    )
    return dict(PIXEL_FLOOR(predictor, config).metrics)


def test_only_names_on_both_sides_are_asked_for(predictor: Predictor, tmp_path: Path) -> None:
    named = samples([*NAMES[:7], *(f"unknown {number}" for number in range(3))])
    # The same pixels, in other files.
    known = [framed(sample, 0) for sample in named]
    nameless = Sample("t", image_bytes(50))
    scores = solve(predictor, tmp_path, samples(NAMES), [*known, nameless])
    assert all(value == 1 for value in scores.values())


def test_images_are_not_compared_with_themselves(predictor: Predictor, tmp_path: Path) -> None:
    # Each image and its negative have the same name, and differ more than any two images.
    some = samples(NAMES)
    other = [replace(framed(it, 0, negative=True), key=f"{it.key}n") for it in some]
    both = [*some, *other]
    scores = solve(predictor, tmp_path, both, both)
    assert scores["image_to_text_recall@1"] == scores["text_to_image_recall@1"] == 0


def test_scores_equal_a_search_by_hand(predictor: Predictor, tmp_path: Path) -> None:
    # Sixteen pixels a side are their own thumbnails.
    data, known = (samples(NAMES, first=start, side=THUMBNAIL_PX) for start in (0, 100))
    flat = [[decode(it.image).double().flatten() for it in some] for some in (data, known)]
    to_text = [
        sorted(range(12), key=lambda k: float((one - flat[1][k]).norm())).index(n) + 1
        for n, one in enumerate(flat[0])
    ]
    to_image = [
        sorted(range(12), key=lambda k: float((one - flat[0][k]).norm())).index(n) + 1
        for n, one in enumerate(flat[1])
    ]
    scores = solve(predictor, tmp_path, data, known)
    for way, ranks in (("image_to_text", to_text), ("text_to_image", to_image)):
        for k in (1, 5, 10):
            assert scores[f"{way}_recall@{k}"] == pytest.approx(np.mean(np.array(ranks) <= k))
        assert scores[f"{way}_median_rank"] == np.median(ranks)


def framed(sample: Sample, border: int, *, negative: bool = False) -> Sample:
    """The same image or its negative within a white border, in other bytes."""
    inner = 255 - decode(sample.image) if negative else decode(sample.image)
    side = inner.shape[1] + 2 * border
    whole = torch.full((3, side, side), 255, dtype=torch.uint8)
    whole[:, border : side - border, border : side - border] = inner
    stream = io.BytesIO()
    image = Image.fromarray(whole.permute(1, 2, 0).contiguous().numpy())
    image.save(stream, "PNG", compress_level=0)
    return replace(sample, image=stream.getvalue())


def test_the_trimmed_floor_looks_past_borders(predictor: Predictor, tmp_path: Path) -> None:
    plain = samples(NAMES)
    framed_ones = [framed(sample, 3 + number) for number, sample in enumerate(plain)]
    config = TaskConfig(
        task="trimmed_pixel_floor",
        data=write_folder(tmp_path / "data", framed_ones),
        reference=write_folder(tmp_path / "known", plain),
    )
    trimmed = TASKS.get("trimmed_pixel_floor")(predictor, config)
    assert trimmed.task == "trimmed_pixel_floor"
    assert trimmed.metrics["image_to_text_recall@1"] == 1
    raw = PIXEL_FLOOR(predictor, replace(config, task="pixel_floor"))
    assert raw.metrics["image_to_text_recall@1"] < 1


@pytest.mark.parametrize("task", ["pixel_floor", "trimmed_pixel_floor"])
def test_without_a_reference_there_is_no_floor(
    predictor: Predictor, tmp_path: Path, task: str
) -> None:
    data = write_folder(tmp_path, samples(NAMES))
    with pytest.raises(ConfigError, match=f"^{task} needs `reference`"):
        TASKS.get(task)(predictor, TaskConfig(task=task, data=data))


def test_sets_without_a_common_name_cannot_be_compared(
    predictor: Predictor, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="nothing to compare") as caught:
        solve(predictor, tmp_path, samples(NAMES), samples(["one", "two"]))
    assert caught.value.reason == "no_overlap"

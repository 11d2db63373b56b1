import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coca.core.errors import ConfigError, DataError
from coca.data.sample import Sample
from coca.inference.predictor import Predictor
from coca.tasks import TASKS, TaskConfig, TaskResult
from tiny_data import image_bytes
from tiny_datasets import write_folder

IMAGE_RETRIEVAL = TASKS.get("image_retrieval")


def samples(names: list[str], *, first: int = 0, labelled: bool = True) -> list[Sample]:
    return [
        Sample(
            f"s{number:02d}",
            image_bytes(first + number),
            captions=(name, f"{name}, again"),
            labels=(name,) if labelled else (),
        )
        for number, name in enumerate(names)
    ]


def reencoded(image: bytes) -> bytes:
    """The same pixels in other bytes."""
    stream = io.BytesIO()
    Image.open(io.BytesIO(image)).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def solve(
    predictor: Predictor, root: Path, data: list[Sample], known: list[Sample], *, limit: int = 0
) -> TaskResult:
    config = TaskConfig(
        task="image_retrieval",
        data=write_folder(root / "data", data),
        reference=write_folder(root / "known", known),
        limit=limit,
    )
    return IMAGE_RETRIEVAL(predictor, config)


def test_scores_equal_a_search_by_hand(predictor: Predictor, tmp_path: Path) -> None:
    asked = samples([f"thing {number % 5}" for number in range(9)])
    known = samples([f"thing {number % 4}" for number in range(20)], first=100)
    result = solve(predictor, tmp_path, asked, known)
    vectors = [predictor.embed_images([it.image for it in some]) for some in (asked, known)]
    ranks = []
    for sample, vector in zip(asked, vectors[0], strict=True):
        order = np.argsort(-(vectors[1] @ vector), kind="stable")
        hits = [number for number, row in enumerate(order, 1) if known[row].labels == sample.labels]
        ranks += hits[:1]
    # Nothing shows thing 4.
    assert result.samples == len(ranks) == 8
    for k in (1, 5, 10):
        wanted = pytest.approx(np.mean(np.array(ranks) <= k))
        assert result.metrics[f"image_to_image_recall@{k}"] == wanted
    assert result.metrics["image_to_image_median_rank"] == np.median(ranks)
    assert [example["rank"] for example in result.details["examples"]] == ranks


def test_images_without_labels_are_joined_by_their_first_caption(
    predictor: Predictor, tmp_path: Path
) -> None:
    asked = samples(["a", "b", "c"], labelled=False)
    # The same pixels, in another file.
    known = [replace(sample, image=reencoded(sample.image)) for sample in asked]
    assert solve(predictor, tmp_path, asked, known).metrics["image_to_image_recall@1"] == 1


def test_images_are_not_compared_with_themselves(predictor: Predictor, tmp_path: Path) -> None:
    some = samples([f"thing {number % 5}" for number in range(16)])
    alone = Sample("alone", image_bytes(90), labels=("nobody else",))
    result = solve(predictor, tmp_path, [*some, alone], [*some, alone])
    vectors = predictor.embed_images([it.image for it in (*some, alone)])
    ranks = []
    for number, sample in enumerate(some):
        order = np.argsort(-(vectors @ vectors[number]), kind="stable")
        others = [[*some, alone][row].labels for row in order if row != number]
        ranks.append(others.index(sample.labels) + 1)
    assert result.samples == 16
    assert result.metrics["image_to_image_recall@1"] == np.mean(np.array(ranks) == 1)
    assert result.metrics["image_to_image_median_rank"] == np.median(ranks)
    # Things 1 to 4 have two others among 16, thing 0 has three.
    chance = (12 * 2 / 16 + 4 * 3 / 16) / 16
    assert result.metrics["chance_image_to_image_recall@1"] == pytest.approx(chance)
    assert "16 of 16 images are also in" in result.notes[0]
    assert "1 of 17 images of" in result.notes[1]
    with pytest.raises(DataError, match="on another image"):
        solve(predictor, tmp_path / "again", [alone], [alone, some[0]])


def test_any_label_in_common_makes_a_hit(predictor: Predictor, tmp_path: Path) -> None:
    asked = [Sample("q", image_bytes(1), labels=("cat", "red_panda"))]
    image = reencoded(image_bytes(1))
    known = [Sample("k", image, labels=("red panda",)), *samples(["dog"], first=3)]
    result = solve(predictor, tmp_path, asked, known)
    assert result.metrics["image_to_image_recall@1"] == 1


def test_chance_is_what_blind_drawing_finds(predictor: Predictor, tmp_path: Path) -> None:
    # One query has two answers among ten, the other has five.
    known = samples(["a"] * 2 + ["b"] * 5 + ["c"] * 3, first=50)
    result = solve(predictor, tmp_path, samples(["a", "b"]), known)
    drawn = np.random.default_rng(0).permuted(np.tile(np.arange(10), (20_000, 1)), axis=1)
    for k in (1, 5, 10):
        first = drawn[:, :k]
        found = [(first < 2).any(axis=1).mean(), ((first >= 2) & (first < 7)).any(axis=1).mean()]
        # Three standard errors of 40,000 draws.
        wanted = pytest.approx(np.mean(found), abs=0.0075)
        assert result.metrics[f"chance_image_to_image_recall@{k}"] == wanted


def test_a_limit_takes_the_first_queries_and_leaves_the_reference_whole(
    predictor: Predictor, tmp_path: Path
) -> None:
    names = [f"thing {number}" for number in range(12)]
    asked, known = samples(names), samples(names, first=100)
    result = solve(predictor, tmp_path, asked, known, limit=4)
    assert result.samples == 4
    assert result.metrics["chance_image_to_image_recall@1"] == pytest.approx(1 / 12)


def test_unreadable_images_of_both_sides_are_reported(predictor: Predictor, tmp_path: Path) -> None:
    asked, known = samples(["a", "b"]), samples(["a", "b"], first=9)
    broken = Sample("broken", b"no image", labels=("a",))
    result = solve(predictor, tmp_path, [*asked, broken], [*known, broken])
    assert len(result.bad) == 2


def test_without_a_reference_there_is_nothing_to_look_through(
    predictor: Predictor, tmp_path: Path
) -> None:
    data = write_folder(tmp_path, samples(["a"]))
    with pytest.raises(ConfigError, match="image_retrieval needs `reference`"):
        IMAGE_RETRIEVAL(predictor, TaskConfig(task="image_retrieval", data=data))


def test_sets_without_a_common_label_cannot_be_compared(
    predictor: Predictor, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="nothing to find") as caught:
        solve(predictor, tmp_path, samples(["a"]), samples(["b"]))
    assert caught.value.reason == "no_overlap"

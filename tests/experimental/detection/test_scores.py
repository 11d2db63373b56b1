import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from coca.experimental.detection.scores import FoundBoxes, TrueBoxes, detection_scores

pytest.importorskip("pycocotools", reason="the extra detection is not installed")


def true(*rows: tuple[int, list[float]], crowd: bool = False) -> TrueBoxes:
    boxes = np.array([box for _, box in rows], float).reshape(-1, 4)
    return TrueBoxes(
        boxes,
        np.array([label for label, _ in rows], int),
        boxes[:, 2] * boxes[:, 3],
        np.full(len(rows), crowd),
    )


def found(*rows: tuple[int, list[float], float]) -> FoundBoxes:
    return FoundBoxes(
        np.array([box for _, box, _ in rows], float).reshape(-1, 4),
        np.array([label for label, _, _ in rows], int),
        np.array([score for _, _, score in rows], float),
    )


def test_scores_are_those_of_pycocotools_on_files(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    truth, predicted = [], []
    for number in range(12):
        boxes = np.concatenate([chance.uniform(0, 60, (4, 2)), chance.uniform(5, 120, (4, 2))], 1)
        labels = chance.integers(0, 3, 4)
        rows = zip(labels.tolist(), boxes.tolist(), strict=True)
        truth.append(true(*rows, crowd=number % 4 == 0))
        moved = boxes + chance.normal(0, 4, boxes.shape)
        moved[:, 2:] = moved[:, 2:].clip(1)
        predicted.append(found(*zip(labels, moved.tolist(), chance.random(4), strict=True)))
    scores, _ = detection_scores(truth, predicted, 3)

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    notes = [
        {"id": 4 * n + k + 1, "image_id": n, "category_id": int(one.labels[k])}
        | {"bbox": one.boxes[k].tolist(), "area": float(one.areas[k])}
        | {"iscrowd": int(one.crowd[k])}
        for n, one in enumerate(truth)
        for k in range(4)
    ]
    results = [
        {"image_id": n, "category_id": int(one.labels[k]), "score": float(one.scores[k])}
        | {"bbox": one.boxes[k].tolist()}
        for n, one in enumerate(predicted)
        for k in range(4)
    ]
    categories = [{"id": number, "name": str(number)} for number in range(3)]
    whole = {"images": [{"id": n} for n in range(12)], "categories": categories}
    (tmp_path / "true.json").write_text(json.dumps({**whole, "annotations": notes}))
    (tmp_path / "found.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        right = COCO(str(tmp_path / "true.json"))
        judged = COCOeval(right, right.loadRes(str(tmp_path / "found.json")), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    assert 0.05 < scores["AP"] < 0.95
    for name, value in zip(names, judged.stats[:6], strict=True):
        assert scores[name] == pytest.approx(float(value), abs=1e-12)


def test_lists_that_do_not_match_and_nothing_to_find_are_errors() -> None:
    with pytest.raises(ValueError, match="1 images"):
        detection_scores([true()], [], 1)
    with pytest.raises(ValueError, match="nothing to find"):
        detection_scores([true()], [found()], 1)

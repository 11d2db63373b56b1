import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources.annotated import SplitAnnotationsConfig
from coca.predict.torch_predictor import TorchPredictor
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.tasks.task import check_task
from tiny_data import CAPTIONS, image_bytes
from tiny_datasets import write_folder

RETRIEVAL = TASKS.get("retrieval")

# One to three captions an image. The number comes first, since long captions are cut.
SAMPLES = [
    Sample(
        f"s{number:02d}",
        image_bytes(number),
        captions=tuple(
            f"{number} {CAPTIONS[(number + turn) % 3]}" for turn in range(1 + number % 3)
        ),
    )
    for number in range(13)
]


def solve(predictor: TorchPredictor, root: Path, **settings: Any) -> TaskResult:
    config = TaskConfig(task="retrieval", data=write_folder(root, SAMPLES))
    return RETRIEVAL(predictor, config.replace(**settings))


def by_hand(predictor: TorchPredictor, samples: list[Sample]) -> dict[str, float]:
    """Sorts every list of results and finds the rank of the own result, one query at a time."""
    images = {it.key: predictor.embed_images(it.image)[0] for it in samples}
    pairs = [(text, it.key) for it in samples for text in it.captions]
    texts = [(predictor.embed_texts(text)[0], key) for text, key in pairs]
    ranks: dict[str, list[int]] = {"text_to_image": [], "image_to_text": []}
    for vector, owner in texts:
        order = sorted(images, key=lambda key: -float(vector @ images[key]))
        ranks["text_to_image"].append(order.index(owner) + 1)
    for key, vector in images.items():
        owners = [owner for _, owner in sorted(texts, key=lambda it: -float(vector @ it[0]))]
        ranks["image_to_text"].append(owners.index(key) + 1)
    scores = {
        f"{way}_recall@{k}": sum(rank <= k for rank in found) / len(found)
        for way, found in ranks.items()
        for k in (1, 5, 10)
    }
    return scores | {f"{way}_median_rank": float(np.median(found)) for way, found in ranks.items()}


@pytest.mark.parametrize("captions", ["all", "first"])
def test_scores_equal_a_search_by_hand(
    predictor: TorchPredictor, tmp_path: Path, captions: str
) -> None:
    kept = None if captions == "all" else 1
    samples = [dataclasses.replace(it, captions=it.captions[:kept]) for it in SAMPLES]
    result = solve(predictor, tmp_path, captions=captions)
    wanted = by_hand(predictor, samples)
    found = {name: value for name, value in result.metrics.items() if "chance" not in name}
    assert found == pytest.approx(wanted)
    assert result.samples == 13


def test_chance_is_what_a_blind_guess_finds(predictor: TorchPredictor, tmp_path: Path) -> None:
    metrics = solve(predictor, tmp_path).metrics
    assert metrics["chance_text_to_image_recall@5"] == pytest.approx(5 / 13)
    # Of 25 captions, four images have three, four two and five one.
    assert metrics["chance_image_to_text_recall@1"] == pytest.approx(1 / 13)
    missed = [1 - 5 / 25, (20 * 19) / (25 * 24), (20 * 19 * 18) / (25 * 24 * 23)]
    wanted = 1 - np.dot([5, 4, 4], missed) / 13
    assert metrics["chance_image_to_text_recall@5"] == pytest.approx(wanted)
    assert max(metrics[name] for name in metrics if "chance" in name) <= 1


def test_a_report_gets_examples_that_json_can_hold(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    examples = json.loads(json.dumps(solve(predictor, tmp_path).details))["examples"]
    for example in examples:
        first = example["found"][0].removeprefix("s") == example["text"].split()[0].zfill(2)
        assert (example["rank"] == 1) == first


def test_an_image_without_a_caption_is_an_error(predictor: TorchPredictor, tmp_path: Path) -> None:
    data = write_folder(tmp_path, [*SAMPLES, Sample("silent", image_bytes(99))])
    with pytest.raises(
        DataError, match=r"1 samples of .* have no caption \(such as silent\)"
    ) as it:
        RETRIEVAL(predictor, TaskConfig(task="retrieval", data=data))
    assert it.value.reason == "no_caption"


@pytest.mark.parametrize("k", [5, len(SAMPLES) * 3])
def test_reranking_scores_the_best_few_of_each_text_and_of_each_image(
    predictor: TorchPredictor, tmp_path: Path, k: int
) -> None:
    metrics = solve(predictor, tmp_path, rerank=k).metrics
    images = [sample.image for sample in SAMPLES]
    pairs = [(text, row) for row, sample in enumerate(SAMPLES) for text in sample.captions]
    texts = [text for text, _ in pairs]
    log_p = predictor.score(images, texts)
    cosines = predictor.embed_images(images) @ predictor.embed_texts(texts).T
    few = np.zeros(cosines.shape, bool)
    for column, image in np.ndindex(len(texts), len(images)):
        above = min(
            (cosines[:, column] > cosines[image, column]).sum(),
            (cosines[image] > cosines[image, column]).sum(),
        )
        few[image, column] = above < k
    # The likelihood of a text is compared with its mean over the images that it is scored for.
    prior = np.log(np.mean(np.exp(log_p), axis=0, where=few))
    scores = np.where(few, predictor.logit_scale * cosines + log_p - prior, -np.inf)
    right = [found == owner for found, (_, owner) in zip(scores.argmax(axis=0), pairs, strict=True)]
    assert metrics["text_to_image_recall@1"] == pytest.approx(np.mean(right))


def test_scores_are_those_of_clip_benchmark(predictor: TorchPredictor, tmp_path: Path) -> None:
    peer = pytest.importorskip(
        "clip_benchmark.metrics.zeroshot_retrieval",
        reason="the oracle, clip-benchmark, is not installed",
    )
    found = solve(predictor, tmp_path).metrics
    vectors = {sample.image: predictor.embed_images(sample.image)[0] for sample in SAMPLES}

    class Encoder:
        """What the peer asks of a model; images are identified by their number."""

        def encode_image(self, numbers: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(
                np.stack([vectors[SAMPLES[it].image] for it in numbers.tolist()])
            )

        def encode_text(self, texts: "_Texts") -> torch.Tensor:
            return torch.from_numpy(predictor.embed_texts(list(texts)))

    class _Texts(list[str]):
        def to(self, device: str) -> "_Texts":
            return self

    batches = [
        (torch.arange(start, min(start + 5, 13)), [list(it.captions) for it in part])
        for start in range(0, 13, 5)
        for part in [SAMPLES[start : start + 5]]
    ]
    wanted = peer.evaluate(Encoder(), batches, _Texts, "cpu", amp=False, recall_k_list=[1, 5, 10])
    for k in (1, 5, 10):
        assert found[f"text_to_image_recall@{k}"] == pytest.approx(
            wanted[f"image_retrieval_recall@{k}"]
        )
        assert found[f"image_to_text_recall@{k}"] == pytest.approx(
            wanted[f"text_retrieval_recall@{k}"]
        )


def test_a_report_gets_queries_with_the_right_hits_marked(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    shown = solve(predictor, tmp_path).report_samples
    by_text = [row for row in shown.rows if row.lead is None]
    by_image = [row for row in shown.rows if row.lead is not None]
    assert by_text
    assert by_image
    # The correct image follows the hits if it is not among them.
    assert all(sum(example.correct for example in row.examples) == 1 for row in by_text)
    for row in by_image:
        own = row.heading.removeprefix("Captions for s")
        for example in row.examples:
            assert example.correct == (example.lines[0].split()[0].zfill(2) == own)


def test_images_without_captions_are_reported_before_any_is_read(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    (tmp_path / "gone.json").write_text(
        '{"images": [{"filename": "a.jpg", "split": "test", "sentences": []}]}'
    )
    data = SplitAnnotationsConfig(kind="karpathy", path=str(tmp_path / "gone.json"))
    with pytest.raises(DataError, match="have no caption"):
        check_task(predictor, TaskConfig(task="retrieval", data=data))

"""Image-text retrieval: text-to-image and image-to-text recall (CoCa, section 4.2).

Similarity is the cosine over the whole set. With five captions per image, each caption is a query,
and an image counts any of its five as correct, as CLIP_benchmark does for COCO and Flickr.

Axes: M texts, N images.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from coca.data.sample import Sample
from coca.metrics.intervals import cluster_interval, wilson_interval
from coca.metrics.retrieval import chance_recall, first_relevant_rank, retrieval_scores
from coca.predict.predictor import Predictor
from coca.predict.video import embed_clips, require_single_images
from coca.tasks.baselines import EncoderClassifier, recalls
from coca.tasks.reranking import rerank
from coca.tasks.task import (
    PREFLIGHT,
    TASKS,
    Example,
    ImageRow,
    ReportSamples,
    TaskConfig,
    TaskResult,
    read_all_metadata,
    read_samples,
    require_captions,
    thumbnail,
)

SHOWN, WORST, FOUND = 6, 3, 5
"""Queries spread over the set, worst queries, and hits per query in a report."""


@TASKS.register("retrieval")
def retrieval(predictor: Predictor, config: TaskConfig) -> TaskResult:
    """Compute recall@1, 5, 10 and median rank in both directions, with chance levels.

    With `rerank`, the top hits of each text and of each image are reranked by caption likelihood.
    With `classifier`, texts are also matched with the class names that a pretrained encoder gives
    each image (`encoder`, see `coca.tasks.baselines`).
    """
    samples, bad = read_samples(config.data, limit=config.limit)
    require_captions(samples, config)
    kept = None if config.captions == "all" else 1
    owners = [row for row, sample in enumerate(samples) for _ in sample.captions[:kept]]
    texts = [text for sample in samples for text in sample.captions[:kept]]
    images = [sample.image for sample in samples]
    clips = [sample.images for sample in samples]
    if config.rerank:
        require_single_images(clips, "rerank")
    image_vectors = embed_clips(predictor, clips, mode=config.video)
    similarity = predictor.embed_texts(texts) @ image_vectors.T
    if config.rerank:
        similarity = rerank(similarity, predictor, images, texts, k=config.rerank, both=True)
    relevant = np.zeros(similarity.shape, dtype=bool)
    relevant[np.arange(len(texts)), owners] = True
    to_image = retrieval_scores(similarity, relevant)
    to_text = retrieval_scores(similarity.T, relevant.T)
    metrics = {f"text_to_image_{name}": value for name, value in to_image.items()}
    metrics |= {f"image_to_text_{name}": value for name, value in to_text.items()}
    for k in (1, 5, 10):
        metrics[f"chance_text_to_image_recall@{k}"] = chance_recall(relevant, k)
        metrics[f"chance_image_to_text_recall@{k}"] = chance_recall(relevant.T, k)
    if config.classifier is not None:
        require_single_images(clips, "classifier")
        encoder = EncoderClassifier(config.classifier, predictor)
        matches = encoder.match_texts(texts, encoder.probabilities(images))
        for way, found in (
            ("text_to_image", recalls(matches, relevant)),
            ("image_to_text", recalls(matches.T, relevant.T)),
        ):
            metrics |= {f"encoder_{way}_{name}": value for name, value in found.items()}
    ranks = first_relevant_rank(similarity, relevant)
    to_text_ranks = first_relevant_rank(similarity.T, relevant.T)
    captions_of = np.bincount(owners, minlength=len(samples))
    intervals = {}
    for k in (1, 5, 10):
        found_of = np.bincount(owners, weights=ranks <= k, minlength=len(samples))
        intervals[f"text_to_image_recall@{k}"] = cluster_interval(found_of, captions_of)
        intervals[f"image_to_text_recall@{k}"] = wilson_interval(
            float((to_text_ranks <= k).mean()), len(samples)
        )
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :FOUND]
    examples = [
        {
            "text": texts[row],
            "rank": int(ranks[row]),
            "found": [samples[hit].key for hit in best[row]],
        }
        for row in range(0, len(texts), max(1, len(texts) // 20))
    ]
    return TaskResult(
        "retrieval",
        metrics,
        len(samples),
        bad,
        {"examples": examples},
        headline=("text_to_image_recall@1", "image_to_text_recall@1"),
        report_samples=ReportSamples(_grids(samples, texts, owners, similarity, ranks)),
        intervals=intervals,
    )


@PREFLIGHT.register("retrieval")
def check(predictor: Predictor, config: TaskConfig) -> None:
    """Check that all images have captions."""
    require_captions(read_all_metadata(config.data, limit=config.limit), config)


def _grids(
    samples: Sequence[Sample],
    texts: Sequence[str],
    owners: Sequence[int],
    similarity: Float[ndarray, "M N"],
    ranks: Int[ndarray, " M"],
) -> tuple[ImageRow, ...]:
    """Select queries spread over the set and the worst queries, each with its top hits."""
    spread = range(0, len(texts), max(1, -(-len(texts) // SHOWN)))
    worst = np.argsort(-ranks, kind="stable")[:WORST].tolist()
    image_rows = []
    for row in [*spread, *(row for row in worst if row not in spread)]:
        best = np.argsort(-similarity[row], kind="stable")[:FOUND].tolist()
        hits = [
            Example(
                (f"{similarity[row, it]:.2f}",), thumbnail(samples[it].image), it == owners[row]
            )
            for it in best
        ]
        if owners[row] not in best:
            # The correct image follows the hits.
            own = thumbnail(samples[owners[row]].image)
            hits.append(Example((f"the correct one, at rank {ranks[row]}",), own, correct=True))
        image_rows.append(ImageRow(f"“{texts[row]}”", tuple(hits)))
    rows = range(0, len(samples), max(1, -(-len(samples) // SHOWN)))
    image_rows += [_captions_found(row, samples, texts, owners, similarity) for row in rows]
    return tuple(image_rows)


def _captions_found(
    row: int,
    samples: Sequence[Sample],
    texts: Sequence[str],
    owners: Sequence[int],
    similarity: Float[ndarray, "M N"],
) -> ImageRow:
    """Return an image with its top text hits."""
    best = np.argsort(-similarity[:, row], kind="stable")[:FOUND].tolist()
    hits = [
        Example((texts[it], f"{similarity[it, row]:.2f}"), correct=owners[it] == row) for it in best
    ]
    lead = Example(("the query",), thumbnail(samples[row].image))
    return ImageRow(f"Captions for {samples[row].key}", tuple(hits), lead)

"""Image-text retrieval: each text looks for its picture, each picture for one of its texts.

Cosine over the whole set, both sides embedded on their own (CoCa, section 4.2). With five captions
a picture, each is a query of its own, and a picture finds any of its five, as CLIP_benchmark counts
for COCO and Flickr.
"""

import numpy as np

from coca.core.progress import ProgressMaker, silent
from coca.inference.predictor import Predictor
from coca.metrics.retrieval import chance_recall, first_relevant_rank, retrieval_scores
from coca.tasks.base import TASKS, TaskConfig, TaskResult, read_samples, require_captions
from coca.tasks.reranking import best_of_each_row, reranked


@TASKS.register("retrieval")
def retrieval(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Recall at 1, 5 and 10 and the median rank, both ways, beside chance.

    With `rerank`, the nearest pictures of each text and texts of each picture are put in order
    again by the caption's likelihood.
    """
    samples, bad = read_samples(config.data, limit=config.limit)
    require_captions(samples, config)
    kept = None if config.captions == "all" else 1
    owners = [row for row, sample in enumerate(samples) for _ in sample.captions[:kept]]
    texts = [text for sample in samples for text in sample.captions[:kept]]
    images = [sample.image for sample in samples]
    pictures = predictor.embed_images(images, progress=progress)
    similarity = predictor.embed_texts(texts, progress=progress) @ pictures.T
    if config.rerank:
        wanted = best_of_each_row(similarity, config.rerank).T
        wanted |= best_of_each_row(similarity.T, config.rerank)
        log_p = predictor.score(images, texts, only=wanted, progress=progress)
        scale = predictor.logit_scale
        similarity = reranked(similarity.T, log_p, logit_scale=scale).T
    relevant = np.zeros(similarity.shape, dtype=bool)
    relevant[np.arange(len(texts)), owners] = True
    to_image = retrieval_scores(similarity, relevant)
    to_text = retrieval_scores(similarity.T, relevant.T)
    metrics = {f"text_to_image_{name}": value for name, value in to_image.items()}
    metrics |= {f"image_to_text_{name}": value for name, value in to_text.items()}
    for k in (1, 5, 10):
        metrics[f"chance_text_to_image_recall@{k}"] = chance_recall(relevant, k)
        metrics[f"chance_image_to_text_recall@{k}"] = chance_recall(relevant.T, k)
    ranks = first_relevant_rank(similarity, relevant)
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :5]
    examples = [
        {
            "text": texts[row],
            "rank": int(ranks[row]),
            "found": [samples[place].key for place in best[row]],
        }
        for row in range(0, len(texts), max(1, len(texts) // 20))
    ]
    return TaskResult("retrieval", metrics, len(samples), bad, {"examples": examples})

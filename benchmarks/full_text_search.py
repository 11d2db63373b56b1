"""End-to-end latency of text queries (`search.py --words`), against pymilvus's own search.

The model has the architecture of `coca_ViT-B-32` and random weights, which cost as much as trained
weights. For each query, in turn: pymilvus's `search` with the settings and columns of
`Collection.search`; `Collection.search` by the same vector; `SearchEngine.search` by text, over the
collection and over an `CollectionCopy` of it.
"""

import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from search_peers import K
from side_by_side import Figures, Unavailable, table

from coca.inference.predictor import Predictor
from coca.model.openclip.openclip import OpenCLIP
from coca.model.openclip.openclip_config import OpenCLIPConfig
from coca.processing.clip_bpe import installed_vocabulary, read_vocabulary
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor
from coca.search.milvus.collection import Collection
from coca.search.milvus.rows import HIT_COLUMNS
from coca.search.query.collection_copy import CollectionCopy
from coca.search.query.engine import SearchEngine

QUERIES = 100
WORDS = ("a", "the", "red", "old", "dog", "cat", "car", "man", "tree", "on", "beach", "snow", "two")
WAYS = {
    "pymilvus": "pymilvus's `search`, by vector",
    "index": "`Collection.search`, by vector",
    "embed": "the model alone, one text",
    "engine": "`SearchEngine.search`, by text",
    "resident": "the same over `CollectionCopy`",
}


def model() -> Predictor:
    """Build the architecture and tokenizer of `coca_ViT-B-32` with random weights."""
    vocabulary = installed_vocabulary()
    if vocabulary is None:
        raise Unavailable("the vocabulary of CLIP needs the package open_clip_torch")
    torch.manual_seed(0)
    config = OpenCLIPConfig()
    image = ImageTransform(ImageConfig(image_size=config.image.image_size))
    processor = Processor(image, read_vocabulary(vocabulary), config.text.context_length)
    return Predictor(OpenCLIP(config), processor, fingerprint="bench", prepack=True)


def ways_of(
    collection: Collection, resident: CollectionCopy, predictor: Predictor
) -> dict[str, Callable[[str, np.ndarray], object]]:
    """Return each kind of query, by text or by its vector."""
    client, timeout_s = collection._connection.client, collection._connection.timeout_s
    params = collection.index_type.search_params(K, 1.0)

    def pymilvus(text: str, vector: np.ndarray) -> object:
        return client.search(
            "bench",
            data=[vector],
            anns_field="vector",
            limit=K,
            output_fields=list(HIT_COLUMNS),
            search_params={"metric_type": "IP", "params": params},
            consistency_level="Bounded",
            timeout=timeout_s,
        )

    engine = SearchEngine(predictor, collection)
    in_memory = SearchEngine(predictor, resident)
    return {
        "pymilvus": pymilvus,
        "index": lambda text, vector: collection.search(vector[np.newaxis], K),
        "embed": lambda text, vector: predictor.embed_texts([text]),
        "engine": lambda text, vector: engine.search(text, k=K),
        "resident": lambda text, vector: in_memory.search(text, k=K),
    }


def timed(collection: Collection, resident: CollectionCopy) -> Figures:
    """Measure each latency in ms, and the ratio of `Collection.search` to pymilvus's search."""
    torch.set_num_threads(1)
    words, predictor = random.Random(0), model()
    queries = [" ".join(words.choices(WORDS, k=words.randint(2, 10))) for _ in range(QUERIES)]
    ways = ways_of(collection, resident, predictor)
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for turn, (text, vector) in enumerate(
        zip(queries, predictor.embed_texts(queries), strict=True)
    ):
        for way in list(ways) if turn % 2 else reversed(list(ways)):
            start = time.perf_counter()
            ways[way](text, vector)
            if turn >= 5:  # the first queries warm up
                taken[way].append(1e3 * (time.perf_counter() - start))
    figures: Figures = {}
    for way, times in taken.items():
        figures[f"{way} p50"] = statistics.median(times)
        figures[f"{way} p95"] = sorted(times)[int(0.95 * len(times))]
    figures["ratio"] = statistics.median(
        ours / own for ours, own in zip(taken["index"], taken["pymilvus"], strict=True)
    )
    return figures


def section(store: str, shown: Callable[..., str]) -> str:
    """Write the section about one store; `shown` formats the figure of a name."""
    rows = [
        [way, *(shown(f"words {name} {part}") for part in ("p50", "p95"))]
        for name, way in WAYS.items()
    ]
    times = shown("words ratio", digits=2)
    return (
        f"## End-to-end text queries, {K} hits, {store}\n\n"
        f"{QUERIES} queries of 2 to 10 words, one at a time and each way in turn; the text side of "
        f"`coca_ViT-B-32`, one thread.\n\n{table(['', 'p50, ms', 'p95, ms'], rows)}\n\n"
        f"`Collection.search` over pymilvus's, query by query: {times} (median)."
    )

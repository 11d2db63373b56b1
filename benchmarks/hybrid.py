"""Recall of hybrid search: by vector, by full text of the captions, and by both.

    python benchmarks/hybrid.py --captions model
    python benchmarks/hybrid.py --captioned 0.5
    python benchmarks/hybrid.py --queries everyday --data 'DRAWINGS/openmoji-*.tar'

Each image is in a collection of Milvus Lite with one caption: the first of its own, or one that the
model writes; with `--captioned`, only this fraction of the images has one. A query is the second
caption of an image, or one of the 100 everyday queries. Exact search by all inner products is the
baseline.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from options import run
from sample_data import HELP, VAL, located
from side_by_side import Figures, Rounds, emit, in_turn, table, write_report

import coca
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from coca.search.milvus.collection import Collection
from coca.search.query.fusion import search_hybrid, word_search
from coca.search.query.query_terms import embed_queries, join_forms, word_forms
from coca.search.records import Hit, Record
from coca.search.search_options import Fusion
from coca.tasks.retrieval.keyword_search import match, read_answers

FUSIONS = {
    "hybrid, default": Fusion(),
    "hybrid, text weight 0.5": Fusion(text_weight=0.5),
    "hybrid, BM25 alone": Fusion(text_weight=0.55, vector_share=0),
    "hybrid, reciprocal ranks": Fusion(method="rrf", text_weight=0.5, vector_share=0),
}
DEPTHS = (1, 5, 10)

QUICK = {"count": 200, "rounds": 1}
UNITS = {"recall of Milvus": "fraction", "* 1": "recall@1", "* 10": "recall@10"}


def contestant(arguments: argparse.Namespace) -> None:
    predictor = coca.load(arguments.model, device="cpu")
    source = open_source(ShardsConfig(path=arguments.data))
    samples = [source.read(row) for row in range(len(source))][: arguments.count]
    pixels = [sample.image for sample in samples]
    images = predictor.embed_images(pixels)
    captions = [sample.captions[0] for sample in samples]
    if arguments.captions == "model":
        captions = [caption.text for caption in predictor.caption(pixels)]
    caption_vectors = predictor.embed_texts(captions)
    kept = np.random.default_rng(0).random(len(samples)) < arguments.captioned
    if arguments.queries == "captions":
        texts = [sample.captions[1] for sample in samples]
        relevant = np.eye(len(samples), dtype=bool)
    else:
        texts, relevant, _ = match(read_answers(arguments.queries) or {}, samples)
    queries = embed_queries(predictor.embed_texts, texts)
    figures: Figures = {"rows": len(samples)}
    with (
        tempfile.TemporaryDirectory() as folder,
        Collection.open(
            str(Path(folder) / "photos.db"),
            embed_dim=predictor.embed_dim,
            fingerprint=predictor.fingerprint,
            create=True,
        ) as collection,
    ):
        collection.upsert(
            Record(
                id=f"{row:05}",
                path=sample.key,
                caption=captions[row] if kept[row] else "",
                vector=images[row],
                text_vector=caption_vectors[row] if kept[row] else None,
            )
            for row, sample in enumerate(samples)
        )
        collection.flush()

        def note(way: str, answers: Sequence[Sequence[str]]) -> None:
            for depth in DEPTHS:
                right = sum(
                    bool(relevant[row, [int(id) for id in ids[:depth]]].any())
                    for row, ids in enumerate(answers)
                )
                figures[f"{way} {depth}"] = right / len(answers)

        def ids(hits: Sequence[Hit]) -> list[str]:
            return [hit.id for hit in hits]

        best = np.argsort(-(queries @ images.T), axis=1, kind="stable")[:, :10]
        exact = [[f"{row:05}" for row in one] for one in best]
        found = [ids(hits) for hits in collection.search(queries, 10)]
        figures["recall of Milvus"] = sum(
            len(set(one) & set(other)) for one, other in zip(found, exact, strict=True)
        ) / (10 * len(exact))
        note("exact", exact)
        note("images", found)
        note("captions", [ids(hits) for hits in collection.search(queries, 10, on="text")])
        words = [word_forms([text]) for text in texts]
        by_words = word_search(collection)
        note("full text", [ids(by_words.full_text_search(join_forms(one))) for one in words])
        for way, fusion in FUSIONS.items():
            hits = [
                search_hybrid(collection, by_words, one, query[np.newaxis], fusion=fusion)
                for one, query in zip(words, queries, strict=True)
            ]
            note(way, [ids(one) for one in hits])
    emit(figures)


def referee(arguments: argparse.Namespace) -> Rounds:
    names = ("model", "data", "count", "captions", "captioned", "queries")
    arguments.data = located(arguments.data)
    shared = [f"--{name}={getattr(arguments, name)}" for name in names]
    rounds = in_turn({"recall": [*shared, "--contestant=recall"]}, rounds=1)
    own = rounds["recall"][0]
    ways = {
        "exact": "images, exact search in memory",
        "images": "images, through Milvus",
        "captions": "captions by vector (`--on text`)",
        "full text": "captions by full text (BM25)",
        **{way: way for way in FUSIONS},
    }
    rows = [
        [shown, *(f"{own[f'{way} {depth}']:.3f}" for depth in DEPTHS)]
        for way, shown in ways.items()
    ]
    write_report(
        arguments,
        rounds,
        f"hybrid-{arguments.captions}-{arguments.captioned:g}-{Path(arguments.queries).stem}",
        f"Text-to-image recall among {own['rows']:,.0f}, {arguments.captioned:.0%} of them with a "
        f"caption; captions: {arguments.captions}, queries: {arguments.queries}",
        table(["compared with", *(f"recall@{depth}" for depth in DEPTHS)], rows),
        f"Recall@10 of Milvus against the exact search: {own['recall of Milvus']:.4f}.",
        packages=["torch", "pymilvus", "milvus-lite"],
    )
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    options.add_argument("--captions", default="human", choices=["human", "model"])
    options.add_argument("--captioned", type=float, default=1.0, help="part with a caption (1)")
    options.add_argument("--queries", default="captions", help="captions, everyday or a file")
    options.add_argument("--data", default=VAL, help=HELP)
    options.add_argument("--count", type=int, default=1000, help="photos (default 1000)")
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS, rounds=1)

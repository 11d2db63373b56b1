"""Searches on real photographs: what Milvus answers is what all products in memory answer."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.search.filters import all_of, any_of, has_any_tag, negate, where
from coca.search.milvus.collection import Collection
from coca.search.mining.recommend import recommend
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import embed_queries
from coca.search.records import Record, content_id
from coca.search.search_options import Ranking

PHOTOS, EXERCISES = 80, 120


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load("nano", device="cpu")


def opened(folder: Path, predictor: Predictor, records: list[Record]) -> Collection:
    collection = Collection.open(
        str(folder / "real.db"),
        embed_dim=predictor.embed_dim,
        fingerprint=predictor.fingerprint,
        create=True,
    )
    collection.upsert(records)
    collection.flush()
    return collection


@pytest.fixture(scope="module")
def photos(
    shared_data: Path, predictor: Predictor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Collection, list[Record], list[tuple[str, ...]]]]:
    """Flickr8k's photos with the first caption in the collection, and all five next to it."""
    path = str(shared_data / "flickr8k" / "val-*.tar")
    source = open_source(ShardsConfig(path=path))
    samples = [source.read(row) for row in range(PHOTOS)]
    captions = [sample.captions for sample in samples]
    vectors = predictor.embed_images([sample.image for sample in samples])
    spoken = predictor.embed_texts([own[0] for own in captions])
    records = [
        Record(
            id=content_id(sample.image),
            path=sample.key,
            caption=sample.captions[0],
            vector=vector,
            text_vector=text,
        )
        for sample, vector, text in zip(samples, vectors, spoken, strict=True)
    ]
    with opened(tmp_path_factory.mktemp("photos"), predictor, records) as collection:
        yield collection, records, captions


@pytest.fixture(scope="module")
def exercises(
    shared_data: Path, predictor: Predictor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Collection, list[Record]]]:
    """Exercises with their equipment and level in the metadata, and their muscles as tags."""
    with zipfile.ZipFile(shared_data / "exercises_128.zip") as archive:
        lines = io.TextIOWrapper(archive.open("meta.jsonl"), encoding="utf-8")
        rows = [json.loads(line) for line in lines][:EXERCISES]
        images = [archive.read(row["images"][0]) for row in rows]
    records = [
        Record(
            id=content_id(image),
            path=row["images"][0],
            caption=row["name"],
            tags=tuple(row["muscles"]),
            metadata={key: row[key] for key in ("category", "equipment") if row[key] is not None},
            vector=vector,
        )
        for row, image, vector in zip(rows, images, predictor.embed_images(images), strict=True)
    ]
    unique = list({record.id: record for record in records}.values())
    with opened(tmp_path_factory.mktemp("exercises"), predictor, unique) as collection:
        yield collection, unique


def nearest(vectors: Any, queries: Any, records: list[Record], k: int) -> list[list[str]]:
    order = np.argsort(-(queries @ np.asarray(vectors).T), axis=1, kind="stable")[:, :k]
    return [[records[row].id for row in one] for one in order]


def test_text_search_finds_the_same_photographs_as_all_products(
    photos: tuple[Collection, list[Record], list[tuple[str, ...]]], predictor: Predictor
) -> None:
    collection, records, captions = photos
    texts = [own[1] for own in captions]
    queries = embed_queries(predictor.embed_texts, texts)
    by_hand = nearest([record.vector for record in records], queries, records, 10)
    answers = SearchEngine(predictor, collection).search_batch(texts=texts, k=10)
    assert [[hit.id for hit in hits] for hits in answers] == by_hand
    answers = SearchEngine(predictor, collection).search_batch(texts=texts, k=10, on="text")
    # Equal captions tie, also with the tenth.
    spoken = [record.text_vector for record in records if record.text_vector is not None]
    assert len(spoken) == len(records)
    cosines = np.sort(queries @ np.stack(spoken).T)[:, :-11:-1]
    scores = [[hit.score for hit in hits] for hits in answers]
    np.testing.assert_allclose(scores, cosines, atol=1e-5)


def test_words_of_captions_help_to_find_a_photograph_by_another_of_its_captions(
    photos: tuple[Collection, list[Record], list[tuple[str, ...]]], predictor: Predictor
) -> None:
    collection, records, captions = photos
    engine = SearchEngine(predictor, collection)
    image = Ranking(caption_weight=0.0, words_weight=0.0)
    captions_too = Ranking(words_weight=0.0)
    found = {image: 0, captions_too: 0, Ranking(): 0}
    for record, own in list(zip(records, captions, strict=True))[::2]:
        for ranking in found:
            hits = engine.search(own[1], ranking=ranking, k=10)
            found[ranking] += record.id in {hit.id for hit in hits}
    # Captions by another person help far more than the images.
    assert found[image] < found[captions_too] <= found[Ranking()]


def test_filters_on_exercises_keep_what_a_loop_keeps(
    exercises: tuple[Collection, list[Record]], predictor: Predictor
) -> None:
    collection, records = exercises
    engine = SearchEngine(predictor, collection)
    heavy = any_of(
        where("metadata.equipment", "==", "barbell"), where("metadata.equipment", "==", "dumbbell")
    )
    legs = has_any_tag(["quadriceps", "hamstrings"])
    for filter, keeps in (
        (heavy, lambda r: r.metadata.get("equipment") in ("barbell", "dumbbell")),
        (legs, lambda r: bool({"quadriceps", "hamstrings"} & set(r.tags))),
        (
            all_of(heavy, negate(legs)),
            lambda r: (
                r.metadata.get("equipment") in ("barbell", "dumbbell")
                and not {"quadriceps", "hamstrings"} & set(r.tags)
            ),
        ),
        (
            where("metadata.equipment", "!=", "body only"),
            lambda r: r.metadata.get("equipment") != "body only",
        ),
    ):
        kept = {record.id for record in records if keeps(record)}
        assert 0 < len(kept) < len(records)
        assert {hit.id for hit in engine.search("a man", k=EXERCISES, filter=filter)} == kept
    liked = [records[0].id, records[1].id]
    others = recommend(engine, liked, k=9, filter=legs, diversity=0.3)
    assert len(others) == 9
    assert not {hit.id for hit in others} & set(liked)
    assert all({"quadriceps", "hamstrings"} & set(hit.tags) for hit in others)

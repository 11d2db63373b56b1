"""Each video once among hits, compared with the groups of all records by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from coca.search.predictor import Embedder
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import Term
from coca.search.query.videos import frames_of
from coca.search.records import SECONDS, Record, series_path
from coca.search.store import Collection

MakeRecord = Callable[..., Record]


@pytest.fixture
def records(collection: Collection, make_record: MakeRecord) -> list[Record]:
    """Four videos of 150 similar frames in one album, and photos of that album and of another."""
    rng, records = np.random.default_rng(0), list[Record]()
    for video in range(4):
        center = rng.standard_normal(16)
        for moment in range(150):
            vector = center + 0.1 * rng.standard_normal(16)
            id, path = f"frame {video} {moment:03}", series_path(f"/trip/{video}.mp4", moment / 2)
            details = {SECONDS: moment / 2}
            records.append(make_record(id, path=path, metadata=details, vector=unit(vector)))
    for photo in range(20):
        vector = unit(rng.standard_normal(16))
        # A key of the same name, and a file whose name looks like a frame.
        details = {SECONDS: 3} if photo % 2 else {}
        path = f"/trip/{photo}.jpg" if photo % 2 else f"/trip/{photo}.mp4#t={photo}"
        records.append(make_record(f"photo {photo:02}", path=path, metadata=details, vector=vector))
    collection.upsert(records)
    return records


def unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def by_hand(records: list[Record], query: np.ndarray) -> list[str]:
    """Ids of the best record of each video and photo, best first."""
    best: dict[str, tuple[float, str]] = {}
    for record in records:
        assert record.vector is not None
        is_frame = record.id.startswith("frame")
        group = record.id[: len("frame 0")] if is_frame else record.id
        best[group] = max(best.get(group, (-9.0, "")), (float(record.vector @ query), record.id))
    return [id for _, id in sorted(best.values(), reverse=True)]


def test_a_search_returns_each_video_by_its_best_frame(
    embedder: Embedder, collection: Collection, records: list[Record]
) -> None:
    engine = SearchEngine(embedder, collection)
    for at in (3, 200, 605):
        query = records[at].vector
        assert query is not None
        expected = by_hand(records, query)
        hits = engine.search(vector=query, group_by="video", limit=50)
        assert [hit.id for hit in hits] == expected
        second = engine.search(vector=query, group_by="video", limit=3, offset=2)
        assert [hit.id for hit in second] == expected[2:5]
        explained = engine.explain("frame 0 000", [Term(vector=query)], group_by="video")
        assert explained.rank == 1 + [id[:7] for id in expected].index("frame 0")


def test_all_frames_of_a_video_are_read_in_their_order(
    collection: Collection, records: list[Record]
) -> None:
    frames = frames_of(collection, [records[170], records[10], records[610]])
    assert [frame.id for frame in frames] == [record.id for record in records[:300]]
    assert frames_of(collection, records[600:]) == []

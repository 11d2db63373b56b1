"""Videos among hits: the best frame of each, and all frames of some."""

from collections.abc import Callable, Iterable

from coca.search.filters import all_of, where
from coca.search.records import ALBUM, METADATA, SECONDS, Hit, Record, group_of, video_of
from coca.search.search_options import MAX_RESULTS
from coca.search.store import Collection


def best_of_videos(find: Callable[[int], list[Hit]], count: int) -> list[Hit]:
    """Find the best hit of each image, and of the frames of each video.

    Frames of a video are similar, and may be all of the first hits: more are read until there are
    enough groups.

    Args:
        find: Returns the first hits, one of each image, as many as asked for, if there are.
        count: Maximum number of hits.
    """
    read = count
    while True:
        hits = find(read)
        best: dict[str, Hit] = {}
        for hit in hits:
            best.setdefault(group_of(hit, "video"), hit)
        if len(best) >= count or len(hits) < read or read == MAX_RESULTS:
            return [*best.values()][:count]
        read = min(4 * read, MAX_RESULTS)


def frames_of(collection: Collection, records: Iterable[Record | Hit]) -> list[Hit]:
    """Read all frames of the videos of some frames, first to last; other images have none."""
    some = [record for record in records if video_of(record)]
    if not some:
        return []
    albums = sorted({record.album for record in some})
    ids = collection.ids(all_of(where(ALBUM, "in", albums), f'exists {METADATA}["{SECONDS}"]'))
    videos = {video_of(record) for record in some}
    frames = [hit for hit in collection.hits(dict.fromkeys(ids, 0.0)) if video_of(hit) in videos]
    return sorted(frames, key=lambda frame: (video_of(frame), frame.metadata[SECONDS]))

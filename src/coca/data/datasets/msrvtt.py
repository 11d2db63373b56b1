"""MSR-VTT: videos with twenty captions each, in the JSON of 2016, or the 1k-A test split.

    {"videos": [{"video_id": "video7010", "category": 9, "split": "test", ...}, ...],
     "sentences": [{"video_id": "video7010", "caption": "a man is ...", "sen_id": 1}, ...]}

The split 1k-A, the standard of zero-shot retrieval since 2018, is a CSV with one caption a video:

    key,vid_key,video_id,sentence
    ret0,msr9770,video9770,a person is connecting something to system
"""

from typing import Any

from coca.core.errors import DataError
from coca.data.sources.annotated import (
    image_folder,
    list_in,
    malformed,
    read_annotations,
    require_splits,
)
from coca.data.sources.source import register_source, single_path
from coca.data.sources.table import open_table
from coca.data.sources.video_clips import Clip, ClipFolder, ClipSource, SplitClipsConfig
from coca.data.storage.storage import Storage


@register_source("msrvtt", SplitClipsConfig)
def msrvtt(config: SplitClipsConfig) -> ClipSource:
    """Read the videos of `split` with all of their captions; the key is `video_id`.

    `images` is the folder of the videos; by default the folder of the file.

    Raises:
        DataError: The file or the folder is missing or malformed, or a split has no video.
    """
    path = single_path(config)
    content = Storage().read_all(path)
    folder = ClipFolder(image_folder(config) or ".")
    if path.lower().endswith(".csv"):
        return ClipSource(_from_table(content, path, folder), config=config, origin=content)
    annotations, _ = read_annotations(config)
    captions: dict[str, list[str]] = {}
    for index, sentence in enumerate(list_in(annotations, "sentences", path)):
        try:
            captions.setdefault(sentence["video_id"], []).append(sentence["caption"].strip())
        except (KeyError, TypeError, AttributeError) as error:
            origin = f"sentence {index} of {path}"
            raise malformed(origin, error, "an object with video_id and caption") from error
    videos = list_in(annotations, "videos", path)
    require_splits(config, (_split(video) for video in videos))
    clips = [
        _clip(video, captions, folder, f"video {index} of {path}")
        for index, video in enumerate(videos)
        if not config.splits or _split(video) in (*config.splits, "malformed")
    ]
    return ClipSource(clips, config=config, origin=content)


def _split(video: Any) -> str:
    return str(video.get("split", "")) if isinstance(video, dict) else "malformed"


def _clip(
    video: Any, captions: dict[str, list[str]], folder: ClipFolder, origin: str
) -> Clip | DataError:
    if not isinstance(video, dict) or not isinstance(video.get("video_id"), str):
        return DataError(
            f"{origin} is malformed; it must be an object with video_id and split",
            reason="bad_record",
        )
    name = video["video_id"]
    metadata = {key: video[key] for key in ("split", "category") if key in video}
    try:
        return Clip(name, folder.find(name), tuple(captions.get(name, ())), (), metadata)
    except DataError as error:
        return error


def _from_table(content: bytes, path: str, folder: ClipFolder) -> list[Clip | DataError]:
    table = open_table(content, path)
    clips: list[Clip | DataError] = []
    for number in range(len(table)):
        try:
            row = table.row(number)
            if not row.get("video_id") or not row.get("sentence"):
                raise DataError(
                    f"row {number} of {path} lacks a video_id or a sentence", reason="bad_record"
                )
            name = str(row["video_id"])
            clips.append(Clip(name, folder.find(name), (str(row["sentence"]),)))
        except DataError as error:
            clips.append(error)
    return clips

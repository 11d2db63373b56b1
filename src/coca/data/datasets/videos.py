"""Videos with labels or captions: Kinetics, Moments in Time and MSR-VTT.

Kinetics-400, -600, -700 and Moments in Time: a CSV of clips and labels, next to the videos.

Kinetics, with a header; the clip is `<youtube_id>_<start>_<end>.mp4`, six digits each, in any
folder (by label, by split, or a single folder). The test split has no labels:

    label,youtube_id,time_start,time_end,split
    testifying,---QUuC4vJs,84,94,validate

Moments in Time, without a header: file, label, and the number of annotators for and against.

    adult+female+singing/0-1-1-3-2-2-5-7-0-2510112757_10.mp4,adult+female+singing,3,0

MSR-VTT: videos with twenty captions each, in the JSON of 2016, or the 1k-A test split.

    {"videos": [{"video_id": "video7010", "category": 9, "split": "test", ...}, ...],
     "sentences": [{"video_id": "video7010", "caption": "a man is ...", "sen_id": 1}, ...]}

The split 1k-A, the standard of zero-shot retrieval since 2018, is a CSV with one caption a video:

    key,vid_key,video_id,sentence
    ret0,msr9770,video9770,a person is connecting something to system
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from coca.core.annotations import parse_text
from coca.core.errors import DataError
from coca.data.sources.annotated import (
    AnnotatedSample,
    image_folder,
    list_in,
    malformed,
    read_annotations,
    require_splits,
)
from coca.data.sources.source import register_source, single_path
from coca.data.sources.table import open_table
from coca.data.sources.video_clips import (
    ClipFolder,
    ClipSource,
    ListedClipsConfig,
    SplitClipsConfig,
)
from coca.data.storage.storage import Storage


@register_source("kinetics", SplitClipsConfig)
def kinetics(config: SplitClipsConfig) -> ClipSource:
    """Read the clips of a Kinetics CSV; only those of `split`, if it is set.

    `images` is the root folder of the videos; by default the folder of the CSV. A clip without its
    video is a bad sample; many videos are no longer available.
    """
    path = single_path(config)
    content = Storage().read_all(path)
    table = open_table(content, path)
    if not len(table) or "youtube_id" not in table.row(0):
        raise DataError(
            f"{path} has no column youtube_id; the columns must be "
            "label,youtube_id,time_start,time_end,split",
            reason="bad_table",
        )
    folder = ClipFolder(image_folder(config) or ".")
    rows = [_kinetics_row(table, number) for number in range(len(table))]
    require_splits(config, (_kinetics_split(row) for row in rows))
    clips = [
        row if isinstance(row, DataError) else _kinetics_clip(row, folder)
        for row in rows
        if isinstance(row, DataError) or not config.splits or _kinetics_split(row) in config.splits
    ]
    return ClipSource(clips, config=config, origin=content)


@register_source("moments", ListedClipsConfig)
def moments(config: ListedClipsConfig) -> ClipSource:
    """Read the clips of a Moments in Time CSV; `+` in a label becomes a space.

    `images` is the root folder of the videos; by default the folder of the CSV.
    """
    path = single_path(config)
    content = Storage().read_all(path)
    folder = ClipFolder(image_folder(config) or ".")
    rows = csv.reader(io.StringIO(parse_text(content, path), newline=""))
    try:
        clips = [
            _moments_clip(row, folder, f"row {number} of {path}")
            for number, row in enumerate(rows)
            if row
        ]
    except csv.Error as error:
        raise DataError(f"{path} is not CSV: {error}", reason="bad_table") from error
    return ClipSource(clips, config=config, origin=content)


def _kinetics_row(table: Any, number: int) -> Mapping[str, str] | DataError:
    try:
        return table.row(number)
    except DataError as error:
        return error


def _kinetics_split(row: Mapping[str, str] | DataError) -> str:
    return "malformed" if isinstance(row, DataError) else row.get("split", "")


def _kinetics_clip(row: Mapping[str, str], folder: ClipFolder) -> AnnotatedSample | DataError:
    name = row["youtube_id"]
    try:
        if row.get("time_start") and row.get("time_end"):
            start, end = (round(float(row[part])) for part in ("time_start", "time_end"))
            name = f"{name}_{start:06d}_{end:06d}"
        label = row.get("label", "")
        return AnnotatedSample(name, folder.find(name), labels=(label,) if label else ())
    except ValueError as error:
        return DataError(f"the clip {name} has no time as a number: {error}", reason="bad_record")
    except DataError as error:
        return error


def _moments_clip(
    row: Sequence[str], folder: ClipFolder, origin: str
) -> AnnotatedSample | DataError:
    if len(row) < 2:
        return DataError(
            f"{origin} contains {','.join(row)!r:.60}; a row must be file,label,agreed,disagreed",
            reason="bad_record",
        )
    file, label, *votes = row
    metadata = dict(zip(("agreed", "disagreed"), votes, strict=False))
    try:
        path = folder.find(file)
    except DataError as error:
        return error
    return AnnotatedSample(file, path, labels=(label.replace("+", " "),), metadata=metadata)


@register_source("msrvtt", SplitClipsConfig)
def msrvtt(config: SplitClipsConfig) -> ClipSource:
    """Read the videos of `split` with all of their captions; the key is `video_id`.

    `images` is the folder of the videos; by default the folder of the file.
    """
    path = single_path(config)
    content = Storage().read_all(path)
    folder = ClipFolder(image_folder(config) or ".")
    if path.lower().endswith(".csv"):
        return ClipSource(_msrvtt_test_split(content, path, folder), config=config, origin=content)
    annotations, _ = read_annotations(config)
    captions: dict[str, list[str]] = {}
    for index, sentence in enumerate(list_in(annotations, "sentences", path)):
        try:
            captions.setdefault(sentence["video_id"], []).append(sentence["caption"].strip())
        except (KeyError, TypeError, AttributeError) as error:
            origin = f"sentence {index} of {path}"
            raise malformed(origin, error, "an object with video_id and caption") from error
    videos = list_in(annotations, "videos", path)
    require_splits(config, (_msrvtt_split(video) for video in videos))
    clips = [
        _msrvtt_clip(video, captions, folder, f"video {index} of {path}")
        for index, video in enumerate(videos)
        if not config.splits or _msrvtt_split(video) in (*config.splits, "malformed")
    ]
    return ClipSource(clips, config=config, origin=content)


def _msrvtt_split(video: Any) -> str:
    return str(video.get("split", "")) if isinstance(video, dict) else "malformed"


def _msrvtt_clip(
    video: Any, captions: dict[str, list[str]], folder: ClipFolder, origin: str
) -> AnnotatedSample | DataError:
    if not isinstance(video, dict) or not isinstance(video.get("video_id"), str):
        return DataError(
            f"{origin} is malformed; it must be an object with video_id and split",
            reason="bad_record",
        )
    name = video["video_id"]
    metadata = {key: video[key] for key in ("split", "category") if key in video}
    try:
        return AnnotatedSample(name, folder.find(name), tuple(captions.get(name, ())), (), metadata)
    except DataError as error:
        return error


def _msrvtt_test_split(
    content: bytes, path: str, folder: ClipFolder
) -> list[AnnotatedSample | DataError]:
    table = open_table(content, path)
    clips: list[AnnotatedSample | DataError] = []
    for number in range(len(table)):
        try:
            row = table.row(number)
            if not row.get("video_id") or not row.get("sentence"):
                raise DataError(
                    f"row {number} of {path} lacks a video_id or a sentence", reason="bad_record"
                )
            name = str(row["video_id"])
            clips.append(AnnotatedSample(name, folder.find(name), (str(row["sentence"]),)))
        except DataError as error:
            clips.append(error)
    return clips

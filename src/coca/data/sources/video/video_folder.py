"""Video-folder source, the layout of UCF101 and HMDB51: the topmost folder is the label."""

from dataclasses import dataclass

from coca.core.errors import DataError
from coca.data.sources.base import register_source, single_path
from coca.data.sources.video.clips import Clip, ClipFolder, ClipsConfig, ClipSource


@dataclass(frozen=True, kw_only=True)
class VideosConfig(ClipsConfig):
    """Settings of a folder of videos."""

    kind: str = "videos"


@register_source("videos", VideosConfig)
def videos(config: VideosConfig) -> ClipSource:
    """Open all videos and frame folders below a folder, sorted by path.

    `ROOT/juggling/1.mp4` and the images in `ROOT/juggling/1/` both have the label "juggling". The
    key is the path without its suffix.

    Raises:
        DataError: The folder is missing or has no video.
    """
    root = single_path(config)
    folder = ClipFolder(root)
    if not folder.paths:
        raise DataError(f"{root} holds no video and no folder of frames", reason="empty_source")
    return ClipSource(
        [
            Clip(path, f"{root}/{path}", labels=(path.partition("/")[0],) if "/" in path else ())
            for path in folder.paths
        ],
        config=config,
    )

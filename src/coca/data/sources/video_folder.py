"""A folder of videos, as UCF101, HMDB51 and most others come: the topmost folder is the label."""

from coca.core.errors import DataError
from coca.data.sources.base import SOURCES, SourceConfig, reads, single_path
from coca.data.sources.clips import Clip, ClipFolder, ClipSource


@SOURCES.register("videos")
@reads("frames", "frame_px")
def videos(config: SourceConfig) -> ClipSource:
    """All videos and folders of frames below a folder, sorted by path.

    `ROOT/juggling/1.mp4` and the images in `ROOT/juggling/1/` both show "juggling". The key is
    the path without its suffix.

    Raises:
        DataError: The folder is missing or holds no video.
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

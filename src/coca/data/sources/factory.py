"""From the words of a recipe to a source that can be read."""

from coca.core.errors import DataError
from coca.data.sources.base import SOURCES, Source, SourceConfig, require_read
from coca.data.sources.frame_strips import StripSource


def open_source(config: SourceConfig) -> Source:
    """The source that `config` describes.

    Raises:
        ConfigError: No such kind, with the nearest name; or the kind ignores a setting that is set.
        DataError: Nothing usable stands at the path.
    """
    require_read(config)
    source = SOURCES.get(config.kind)(config)
    if config.strip:
        source = StripSource(source, config.strip, config.frames)
    if not len(source):
        raise DataError(f"source {config.title} holds no sample", reason="empty_source")
    return source

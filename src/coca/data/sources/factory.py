"""Source factory: open the source that a recipe configures."""

from coca.core.errors import DataError
from coca.data.sources.base import SOURCES, Source, SourceConfig, require_read
from coca.data.sources.frame_strips import StripSource


def open_source(config: SourceConfig) -> Source:
    """Open the source that `config` describes.

    Raises:
        ConfigError: The kind is unknown, or does not read a setting that is set.
        DataError: The path has no usable sample.
    """
    require_read(config)
    source = SOURCES.get(config.kind)(config)
    if config.strip:
        source = StripSource(source, config.strip, config.frames)
    if not len(source):
        raise DataError(f"source {config.title} holds no sample", reason="empty_source")
    return source

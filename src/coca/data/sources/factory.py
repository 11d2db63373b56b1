"""Source factory: open the source that a recipe configures."""

from pathlib import Path

from coca.core.errors import ConfigError, DataError
from coca.data.sources.folder import FolderConfig
from coca.data.sources.source import SOURCES, Source, SourceConfig
from coca.data.sources.table import SUFFIXES
from coca.data.sources.table_source import ManifestConfig
from coca.data.sources.tar.shards import ShardsConfig
from coca.data.sources.video_clips import StripSource


def open_source(config: SourceConfig) -> Source:
    """Open the source that `config` describes.

    Raises:
        ConfigError: The kind is unknown, or `config` is not of its class.
        DataError: The path has no usable sample.
    """
    kind = SOURCES.get(config.kind)
    if not isinstance(config, kind.config):
        raise ConfigError(
            f"a source of kind {config.kind} is configured by {kind.config.__name__}, got "
            f"{type(config).__name__}"
        )
    source = kind.open(config)
    if config.strip:
        source = StripSource(source, config.strip, config.frames)
    if not len(source):
        raise DataError(f"source {config.title} has no sample", reason="empty_source")
    return source


def config_class_of(path: str) -> type[FolderConfig | ManifestConfig | ShardsConfig]:
    """Infer the kind of a source from its path: a table, tars, or a folder of images."""
    if path.endswith(SUFFIXES):
        return ManifestConfig
    local = Path(path)
    if not local.is_dir() or any(local.glob("*.tar")):
        return ShardsConfig
    return FolderConfig

import pytest

from coca.core.config.frozen_config import from_dict
from coca.core.errors import ConfigError, DataError
from coca.data.sources.factory import open_source
from coca.data.sources.folder import FolderConfig
from coca.data.sources.source import SourceConfig
from coca.data.sources.tar.shards import ShardsConfig
from tiny_data import MemorySource, make_samples


def test_a_source_is_called_by_its_name_or_else_by_its_paths_in_logs() -> None:
    assert ShardsConfig(path=("a.tar", "b.tar")).title == "a.tar, b.tar"
    assert FolderConfig(path="x", name="pets").title == "pets"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"path": ""}, "path must be a folder, file or pattern, got ''"),
        ({"path": ()}, "path must be a text or a list of at least 1"),
        ({"path": ("a", "")}, "path must be a folder, file or pattern"),
        ({"frames": 3}, "frames is 3, but the images are not strips"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ShardsConfig(**{"path": "x", **settings})  # type: ignore[arg-type]


def test_a_configuration_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="shards is configured by ShardsConfig, got SourceConfig"):
        open_source(SourceConfig(kind="shards", path="x"))


@pytest.mark.parametrize("kind", ["folder", "manifest"])
def test_kinds_that_take_one_path_refuse_two(kind: str) -> None:
    with pytest.raises(ConfigError, match="takes one path, not 2"):
        open_source(from_dict(SourceConfig, {"kind": kind, "path": ["a", "b"]}, source="a test"))


def test_bad_rows_are_read_as_errors_at_their_positions() -> None:
    good, error = make_samples(1)[0], DataError("gone", reason="missing")
    source = MemorySource([good, error, good])
    assert source.read_many([2, 1, 0]) == [good, error, good]

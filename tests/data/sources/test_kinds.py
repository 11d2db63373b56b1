"""Each kind of source has settings of its own; all other settings are errors."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import PositiveInt

from coca.cli.training.recipe_settings import describe
from coca.core.config.frozen_config import from_dict, to_dict
from coca.core.errors import ConfigError
from coca.data.sources.factory import config_class_of, open_source
from coca.data.sources.source import SOURCES, Source, SourceConfig, register_source
from tiny_data import MemorySource, make_samples

# A value for each setting that only some kinds have, which is not its default.
VALUES: dict[str, Any] = {
    "images": "x",
    "split": "train",
    "names": "x",
    "classes": "x",
    "border_px": 1,
    "image_column": "x",
    "caption_column": "x",
    "label_column": "x",
    "text_column": "x",
    "answer_column": "x",
    "where": {"split": "train"},
    "part": {"by": "key", "end": 0.5},
    "table": "x",
    "frame_px": 8,
    "index_folder": "x",
    "block_size": 2,
    "read_from": ["x"],
}
TABLE = {f"{name}_column" for name in ("image", "caption", "label", "text", "answer")}
OWN = {
    "folder": {"where", "part"},
    "shards": {"where", "part", "index_folder", "block_size"},
    "manifest": {"where", "part", "read_from", *TABLE},
    "zip": {"where", "part", "read_from", "table", *TABLE},
    "class_folders": {"names", "classes", "border_px"},
    "videos": {"frame_px"},
    "moments": {"images", "frame_px"},
    "kinetics": {"images", "split", "frame_px"},
    "msrvtt": {"images", "split", "frame_px"},
    "karpathy": {"images", "split"},
    "coco_captions": {"images", "split"},
    **{kind: {"images"} for kind in ("vqa", "snli_ve", "nlvr2")},
}


def read(**settings: Any) -> SourceConfig:
    return from_dict(SourceConfig, settings, source="a test")


def test_the_kind_of_a_path_is_that_of_its_content(tmp_path: Path) -> None:
    for name in ("photos", "tars"):
        (tmp_path / name).mkdir()
    (tmp_path / "tars" / "a.tar").touch()
    paths = ("photos", "tars", "tars/a.tar", "tars/*.tar", "table.jsonl")
    kinds = [config_class_of(str(tmp_path / path))(path="x").kind for path in paths]
    assert kinds == ["folder", "shards", "shards", "shards", "manifest"]


@pytest.mark.parametrize("kind", OWN)
def test_a_kind_has_its_own_settings_and_refuses_those_of_others(kind: str) -> None:
    own = {name: VALUES[name] for name in OWN[kind]}
    config = read(kind=kind, path="nowhere", **own)
    assert {name: to_dict(config)[name] for name in own} == {
        name: {"start": 0.0, **value} if name == "part" else value for name, value in own.items()
    }
    for name in VALUES.keys() - own.keys():
        with pytest.raises(ConfigError, match=f"^{name} = .* is a setting of kind .*; "):
            read(kind=kind, path="nowhere", **{name: VALUES[name]})


def test_every_kind_is_listed_here_and_reads_what_it_writes() -> None:
    opened_in = {name: SOURCES.get(name).open.__module__ for name in SOURCES.names()}
    kinds = {name for name, module in opened_in.items() if module.startswith("coca.data.")}
    assert kinds == OWN.keys()
    for kind in kinds:
        config = read(kind=kind, path="x", weight=2.5)
        assert from_dict(SourceConfig, to_dict(config), source="a test") == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "shard"}, "^kind = 'shard' is unknown; did you mean 'shards'?"),
        ({"kind": 3}, "^kind = 3 is unknown; known: class_folders, "),
        ({}, "^kind is missing; it must be one of 'class_folders', "),
        ({"kind": "folder", "wheer": {}}, "^wheer = {} is unknown; did you mean 'where'?"),
    ],
)
def test_an_unknown_kind_or_setting_is_an_error(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(path="x", **settings)


class MemoryConfig(SourceConfig):
    kind: str = "memory"
    count: PositiveInt = 2
    """Number of samples."""


def test_a_plugin_registers_a_kind_with_settings_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SOURCES, "_entries", dict(SOURCES._entries))

    @register_source("memory", MemoryConfig)
    def memory(config: MemoryConfig) -> Source:
        return MemorySource(make_samples(config.count))

    assert len(open_source(read(kind="memory", path="m", count=3))) == 3
    with pytest.raises(ConfigError, match=r"^count must be a whole number above 0, got 0"):
        read(kind="memory", path="m", count=0)
    with pytest.raises(ConfigError, match=r"where = .* is a setting of .*; known: count, frames"):
        read(kind="memory", path="m", where={"split": "train"})
    row = next(row for row in describe(SourceConfig) if row.key == "count")
    assert (row.kinds, row.text) == (("memory",), "Number of samples.")


def test_the_list_of_settings_names_their_kinds() -> None:
    rows = {row.key: row for row in describe(SourceConfig, "data.sources.N.")}
    assert rows["data.sources.N.kind"].type.startswith("one of 'class_folders', 'coco_captions'")
    shared = {row.key.rpartition(".")[2] for row in rows.values() if not row.kinds}
    assert shared == set(SourceConfig.model_fields)
    for name in VALUES.keys() - {"part"}:
        row = rows[f"data.sources.N.{name}"]
        # Plug-ins add kinds.
        assert OWN.keys() & row.kinds == {kind for kind, own in OWN.items() if name in own}
        assert row.text
    assert rows["data.sources.N.part.by"].kinds == ("folder", "manifest", "shards", "zip")

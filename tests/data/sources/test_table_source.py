import json
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import ConfigError
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.folder import FolderConfig
from coca.data.sources.source import PartConfig, Source
from coca.data.sources.table_source import ManifestConfig
from coca.data.sources.tar.shards import ShardsConfig, ShardSource, ShardWriter
from tiny_data import image_bytes

CONFIGS = {"manifest": ManifestConfig, "shards": ShardsConfig, "folder": FolderConfig}

# Row, split and label; the last has no sidecar field at all.
ROWS = (("train", "cat"), ("val", "cat"), ("train", "dog"), ("test", "dog"), ("", ""))


def _samples() -> list[Sample]:
    return [
        Sample(
            f"s{number}",
            image_bytes(number),
            (f"caption {number}",),
            (label,) if label else (),
            {"split": split} if split else {},
        )
        for number, (split, label) in enumerate(ROWS)
    ]


def _write(kind: str, folder: Path) -> str:
    if kind == "shards":
        with ShardWriter(folder, samples_per_shard=2) as writer:
            for sample in _samples():
                writer.write(sample)
        return f"{folder}/*.tar"
    folder.mkdir()
    lines = []
    for sample in _samples():
        (folder / f"{sample.key}.png").write_bytes(sample.image)
        record: dict[str, Any] = {"caption": sample.captions[0], **sample.metadata}
        record |= {"label": sample.labels[0]} if sample.labels else {}
        if kind == "folder":
            (folder / f"{sample.key}.json").write_text(json.dumps(record), encoding="utf-8")
        lines.append(json.dumps({"key": sample.key, "image": f"{sample.key}.png", **record}))
    if kind == "folder":
        return str(folder)
    (folder / "all.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "all.jsonl")


def _keys(source: Source) -> list[str]:
    return [source.key(row) for row in range(len(source))]


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        ({"split": "train"}, ["s0", "s2"]),
        ({"split": ("val", "test")}, ["s1", "s3"]),
        ({"split": "train", "label": "dog"}, ["s2"]),
    ],
)
def test_where_selects_the_same_samples_of_every_kind(
    tmp_path: Path, where: dict[str, Any], keys: list[str]
) -> None:
    for kind in ("manifest", "shards", "folder"):
        source = open_source(CONFIGS[kind](path=_write(kind, tmp_path / kind), where=where))
        assert _keys(source) == keys, kind
        for row, key in enumerate(keys):
            whole = _samples()[int(key[1:])]
            read = source.read(row)
            assert (read.image, read.captions, read.labels) == (
                whole.image,
                whole.captions,
                whole.labels,
            )


def test_parts_of_one_column_share_no_sample_and_together_are_all(tmp_path: Path) -> None:
    parts = (PartConfig(by="key", end=0.4), PartConfig(by="key", start=0.4))
    found: dict[str, list[list[str]]] = {}
    for kind in ("manifest", "shards", "folder"):
        path = _write(kind, tmp_path / kind)
        found[kind] = [_keys(open_source(CONFIGS[kind](path=path, part=part))) for part in parts]
        assert sorted(key for part in found[kind] for key in part) == ["s0", "s1", "s2", "s3", "s4"]
    assert found["manifest"] == found["shards"] == found["folder"]


@pytest.mark.parametrize("kind", ["shards", "folder", "manifest"])
def test_a_value_that_no_sample_has_is_refused_with_those_there_are(
    tmp_path: Path, kind: str
) -> None:
    path = _write(kind, tmp_path / "data")
    with pytest.raises(ConfigError, match=r"split is None or test or train or val"):
        open_source(CONFIGS[kind](path=path, where={"split": "nonsense"}))


def test_no_image_is_read_to_choose_from_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ShardsConfig(path=_write("shards", tmp_path / "data"), where={"split": "train"})
    read: list[bytes] = []
    known = ShardSource(config)._storage.__class__
    original = known.read

    def noted(self: Any, path: str, ranges: Any) -> list[bytes]:
        found = original(self, path, ranges)
        read.extend(found)
        return found

    monkeypatch.setattr(known, "read", noted)
    ShardSource(config)
    assert read
    assert not any(part.startswith(b"\x89PNG") for part in read)

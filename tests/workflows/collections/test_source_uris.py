from pathlib import Path

import pytest

from coca.core.errors import CocaError, ConfigError, DataError
from coca.search.ingest.parquet import VectorsInfo, write_vectors
from coca.workflows.collections.image_sources import open_sources
from coca.workflows.collections.source_uris import (
    FolderUri,
    ImageUri,
    MissingUri,
    SourceUri,
    TableUri,
    TarsUri,
    VectorsUri,
    VideoUri,
    resolve_uri,
    resolve_uris,
    vectors_files,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an empty file of each kind."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.JPG", "a.mp4", "a.tar", "a.jsonl", "a.zip", "photos/b.png", "tars/b.tar"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "photos" / "folder.tar").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "resolved"),
    [
        ("photos", FolderUri("photos")),
        ("tars", FolderUri("tars")),
        ("photos/folder.tar", FolderUri("photos/folder.tar")),
        ("a.JPG", ImageUri("a.JPG")),
        ("a.mp4", VideoUri("a.mp4")),
        ("a.tar", TarsUri("a.tar")),
        ("tars/*.tar", TarsUri("tars/*.tar")),
        ("tars/{a,b}.tar", TarsUri("tars/{a,b}.tar")),
        ("s3://bucket/{00..99}.tar", TarsUri("s3://bucket/{00..99}.tar")),
        ("a.jsonl", TableUri("a.jsonl", "manifest")),
        ("a.zip", TableUri("a.zip", "zip")),
        ("https://example.org/a.PARQUET", TableUri("https://example.org/a.PARQUET", "manifest")),
    ],
)
def test_a_uri_is_resolved_by_name_and_kind_of_file(
    folder: Path, uri: str, resolved: SourceUri
) -> None:
    assert resolve_uri(uri) == resolved


@pytest.mark.parametrize(
    ("uri", "kind", "advice"),
    [
        ("a.json", ConfigError, "one JSON object per line"),
        ("a.npy", ConfigError, "name the images themselves"),
        ("a.db", ConfigError, "--uri"),
        ("a.tar.gz", ConfigError, "compressed tars"),
        ("a.doc", ConfigError, "supported are folders"),
        ("https://example.org/a.jpg", ConfigError, "list them in a manifest"),
        ("absent", DataError, "no file or folder"),
    ],
)
def test_a_uri_that_cannot_be_indexed_is_refused_with_a_remedy(
    folder: Path, uri: str, kind: type[CocaError], advice: str
) -> None:
    if "://" not in uri and uri != "absent":
        Path(uri).touch()
    with pytest.raises(kind, match=advice):
        resolve_uris(["photos", uri])


def test_a_uri_that_is_given_in_several_ways_is_resolved_once(folder: Path) -> None:
    uris = ["photos", f"{folder}/photos/", "a.zip", "./a.zip", "photos/../a.zip"]
    assert [type(one) for one in resolve_uris(uris)] == [FolderUri, TableUri]


def test_what_is_missing_is_resolved_where_its_records_are_to_be_removed(folder: Path) -> None:
    uris = ["photos", "absent", "absent/b.png", "absent.tar"]
    resolved = resolve_uris(uris, allow_missing=True)
    assert resolved == [FolderUri("photos"), *map(MissingUri, uris[1:])]
    for pattern in ("absent/*.tar", "absent/{0..3}.tar"):
        assert resolve_uris([pattern], allow_missing=True) == [TarsUri(pattern)]


def test_vectors_are_found_by_their_content_and_not_mixed_with_images(folder: Path) -> None:
    file = folder / "vectors" / "a.parquet"
    about = VectorsInfo(
        fingerprint="one", embed_dim=4, model="nano", source="a.tar", images=0, bad=0
    )
    write_vectors(file, [], about)
    resolved = resolve_uris([folder / "vectors", file])
    assert resolved == [
        VectorsUri(str(folder / "vectors"), (file,)),
        VectorsUri(str(file), (file,)),
    ]
    assert vectors_files(resolved) == [file]
    assert vectors_files(resolve_uris(["photos", "a.JPG"])) == []
    with pytest.raises(ConfigError, match="one after the other"):
        vectors_files(resolve_uris([file, "photos"]))
    with pytest.raises(ConfigError, match="holds vectors and no images"):
        open_sources(resolved)

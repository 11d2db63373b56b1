"""Folder sources: images with sidecar files, and class folders in the layout of ImageNet.

Folder names are often ids (`n01440764`, `7`); a separate file maps them to class names. The user
supplies it, since published lists of names have their own licence terms. Supported formats are

    {"n01440764": "tench", ...}               JSON: folder to name
    {"0": ["n01440764", "tench"], ...}        JSON: number to folder and name
    ["tench", "goldfish", ...]                JSON: the name of folder 0, 1, ...
    n01440764 tench, Tinca tinca              text: one folder per line, then its name up to a comma
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace

from PIL import Image
from pydantic import NonNegativeInt

from coca.core import annotations
from coca.core.errors import DataError
from coca.core.files.formats import IMAGE_SUFFIXES
from coca.core.files.local_files import MAX_IMAGE_BYTES, file_etag, walk_files
from coca.data.sample import Sample
from coca.data.sources.annotated import AnnotatedSample, AnnotatedSource
from coca.data.sources.source import (
    SelectionConfig,
    Source,
    SourceConfig,
    register_source,
    single_path,
)
from coca.data.sources.table_source import selected_rows
from coca.data.storage.storage import Storage

# Image-folder source with sidecar files (`.txt`, `.json`) or class folders.


class FolderConfig(SelectionConfig):
    """Settings of an image folder."""

    kind: str = "folder"


@register_source("folder", FolderConfig)
class FolderSource(Source):
    """All images below a folder, sorted by path; hidden files and folders are skipped.

    The sidecar files of an image have its captions, `label` or `labels`, and metadata, see
    `coca.core.annotations`. Without labels there, the topmost subfolder is the label:
    `ROOT/cat/1.jpg` has the label "cat". The key is the path without its suffix.
    """

    has_metadata = True

    def __init__(self, config: FolderConfig) -> None:
        self._root = single_path(config)
        if not os.path.isdir(self._root):
            raise DataError(
                f"{self._root} is not a folder; for a table use `kind: manifest`, for tars "
                "`kind: shards`",
                reason="missing",
            )
        self._storage = Storage()
        self._images: list[str] = []
        self._sidecars: set[str] = set()
        digest = hashlib.sha256()
        for path, size in sized_files(self._root):
            suffix = os.path.splitext(path)[1]
            if suffix.lower() in IMAGE_SUFFIXES:
                self._images.append(path)
            elif suffix in annotations.SIDECAR_SUFFIXES:
                self._sidecars.add(path)
            else:
                continue
            digest.update(f"{path}\0{size}\0".encode("utf-8", "surrogateescape"))
        self._refuse_twins()
        rows = selected_rows(self.read_metadata, len(self._images), config)
        if rows is not None:
            self._images = [self._images[row] for row in rows]
            digest.update(rows.tobytes())
        self.fingerprint = digest.hexdigest()[:16]
        """Hash of the names and sizes of images and sidecars, and of the selected rows."""

    def __len__(self) -> int:
        return len(self._images)

    def key(self, row: int) -> str:
        """Return the path of the image in the folder, without its suffix."""
        return os.path.splitext(self._images[row])[0].replace(os.sep, "/")

    def read(self, row: int) -> Sample:
        """Read the sample in a row; `DataError` if a file is missing or a sidecar is damaged."""
        return replace(self.read_metadata(row), image=self._content(self._images[row]))

    def read_metadata(self, row: int) -> Sample:
        """Read the sample in a row without its image; `DataError` if a sidecar is damaged."""
        key = self.key(row)
        stem = os.path.splitext(self._images[row])[0]
        sidecars = annotations.Sidecars()
        # No file is opened for images that had no sidecar file when the folder was listed.
        if any(stem + suffix in self._sidecars for suffix in annotations.SIDECAR_SUFFIXES):
            sidecars = annotations.read_sidecars(os.path.join(self._root, self._images[row]))
        record_file = os.path.join(self._root, f"{stem}.json")
        _, labels, metadata = annotations.split_record(sidecars.fields, record_file)
        if not labels and "/" in key:
            labels = (key.partition("/")[0],)
        return Sample(key, b"", sidecars.captions, labels, metadata)

    def etag(self, row: int) -> str:
        """Return size and modification time of the image and of its sidecars."""
        stem = os.path.splitext(self._images[row])[0]
        sidecars = [f"{stem}{suffix}" for suffix in (".json", ".txt")]
        files = [self._images[row], *(file for file in sidecars if file in self._sidecars)]
        return " ".join(file_etag(os.path.join(self._root, file)) for file in files)

    def _content(self, path: str) -> bytes:
        return self._storage.read_all(os.path.join(self._root, path), max_bytes=MAX_IMAGE_BYTES)

    def _refuse_twins(self) -> None:
        # Not only neighbours: `a.old.jpg` is between `a.jpg` and `a.png`.
        rows: dict[str, int] = {}
        for row in range(len(self)):
            first = rows.setdefault(self.key(row), row)
            if first != row:
                raise DataError(
                    f"{self._images[first]} and {self._images[row]} in {self._root} share their "
                    "name, and so their captions; rename one of them",
                    reason="duplicate_key",
                )


def sized_files(root: str) -> Iterator[tuple[str, int]]:
    """Yield relative path and size (bytes) of each file, sorted by path."""
    for path in sorted(walk_files(root)):
        try:
            yield os.path.relpath(path, root), os.stat(path).st_size
        except FileNotFoundError:
            # A broken link is kept, so that reading it reports the error.
            yield os.path.relpath(path, root), -1


# Class-folder source, the layout of ImageNet, ImageNet-V2, -A, -R, -Sketch and ObjectNet.


class ClassFoldersConfig(SourceConfig):
    """Settings of class folders."""

    kind: str = "class_folders"

    names: str = ""
    """File that maps folders to class names; folder names by default."""

    classes: str = ""
    """File that lists the classes to read; all by default."""

    border_px: NonNegativeInt = 0
    """Pixels to crop at each side of an image, such as ObjectNet's red frame."""


@register_source("class_folders", ClassFoldersConfig)
class ClassFolderSource(AnnotatedSource):
    """All images, sorted by path; the topmost folder is the class, `config.names` maps its name.

    `config.classes` lists the classes to read, by folder or by name; images of other classes are
    skipped. Example: to score ObjectNet on the 113 classes that it shares with ImageNet, `names` is
    its `folder_to_objectnet_label.json`, `classes` its `objectnet_to_imagenet_1k.json`, and
    `border_px` is 2, for the red frame.
    """

    def __init__(self, config: ClassFoldersConfig) -> None:
        root = single_path(config)
        if not os.path.isdir(root):
            raise DataError(f"{root} is not a folder; it should have one a class", reason="missing")
        files = [
            (path.replace(os.sep, "/"), size)
            for path, size in sized_files(root)
            if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES and os.sep in path
        ]
        named = _named({path.partition("/")[0] for path, _ in files}, config)
        kept = [(path, size) for path, size in files if path.partition("/")[0] in named]
        entries = [
            AnnotatedSample(
                os.path.splitext(path)[0], path, (), (named[folder],), {"folder": folder}
            )
            for path, _ in kept
            for folder in (path.partition("/")[0],)
        ]
        self._border_px = config.border_px
        self.classes = tuple(sorted(named.values()))
        """Names of all classes."""
        parts = json.dumps([kept, sorted(named.items()), config.border_px])
        digest = hashlib.sha256(parts.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        super().__init__(entries, images=root, fingerprint=digest)

    def _image(self, file: str) -> bytes:
        image = super()._image(file)
        return _without_border(image, self._border_px, file) if self._border_px else image


def read_names(path: str) -> dict[str, str]:
    """Read the map from folder to class name from a file in one of the formats above."""
    text = annotations.parse_text(Storage().read_all(path), path)
    if not path.endswith(".json"):
        lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
        # The first of several comma-separated names.
        return {line[0]: line[-1].partition(",")[0].strip() for line in lines}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}", reason="bad_record") from error
    if isinstance(content, list):
        content = {str(index): name for index, name in enumerate(content)}
    names: dict[str, str] = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, list) and len(value) == 2:
            names[str(value[0])] = names[key] = str(value[1])
        else:
            names[key] = str(value)
    if not names:
        raise DataError(f"{path} names no class; see coca.data.sources.folder", reason="bad_record")
    return {folder: name.replace("_", " ") for folder, name in names.items()}


def _named(folders: set[str], config: ClassFoldersConfig) -> dict[str, str]:
    """Map each folder to read to its class name."""
    names = read_names(config.names) if config.names else {}
    named = {folder: names.get(folder, folder.replace("_", " ")) for folder in folders}
    if config.classes:
        named = _listed(named, config)
    if unnamed := sorted(named.keys() - names.keys() if config.names else ()):
        raise DataError(
            f"{len(unnamed)} folders of {config.title} have no name in {config.names}, such as "
            f"{unnamed[0]}; add them, or list in `classes` what is to be read",
            reason="no_name",
        )
    owners: dict[str, str] = {}
    for folder, name in sorted(named.items()):
        if name in owners:
            raise DataError(
                f"the folders {owners[name]} and {folder} of {config.title} are both called "
                f"{name!r}; give each a name of its own in a file, and name that in `names`",
                reason="duplicate_name",
            )
        owners[name] = folder
    return named


def _listed(named: dict[str, str], config: ClassFoldersConfig) -> dict[str, str]:
    """Select the folders that the file `config.classes` lists, by folder or by name."""
    known = {form: folder for folder, name in named.items() for form in (name.casefold(), folder)}
    kept = {}
    for forms in _read_classes(config.classes):
        folder = next((known[form] for form in forms if form in known), None)
        if folder is None:
            raise DataError(
                f"{config.classes} lists the class {forms[-1]!r}, of which {config.title} has no "
                "image; leave it out there",
                reason="empty_class",
            )
        kept[folder] = named[folder]
    return kept


def _read_classes(path: str) -> list[tuple[str, ...]]:
    """Read the listed classes, each with its alternative spellings."""
    text = annotations.parse_text(Storage().read_all(path), path)
    if path.endswith(".json"):
        try:
            listed = [str(name) for name in json.loads(text)]  # an object yields its keys
        except (ValueError, RecursionError, TypeError) as error:
            raise DataError(f"{path} is not a JSON list: {error}", reason="bad_record") from error
        return [(name.casefold(), name) for name in listed]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line.casefold(), line.split()[0], line) for line in lines]


def _without_border(image: bytes, border_px: int, name: str) -> bytes:
    """Crop a border from an image; return it upright, as PNG."""
    # Imports torch, which programs that only list sources do not need.
    from coca.processing.image import decode

    pixels = decode(image)
    inner = pixels[:, border_px:-border_px, border_px:-border_px]
    if not inner.numel():
        raise DataError(
            f"{name} is {pixels.shape[2]} x {pixels.shape[1]} px; nothing is left of it without "
            f"{border_px} px at each side",
            reason="too_small",
        )
    buffer = io.BytesIO()
    cropped = Image.fromarray(inner.permute(1, 2, 0).contiguous().numpy())
    cropped.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

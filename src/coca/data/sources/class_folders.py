"""Class-folder source, the layout of ImageNet, ImageNet-V2, -A, -R, -Sketch and ObjectNet.

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
from dataclasses import dataclass

from PIL import Image
from pydantic import NonNegativeInt

from coca.core.annotations import parse_text
from coca.core.errors import DataError
from coca.core.files.formats import IMAGE_SUFFIXES
from coca.data.sources.annotated import AnnotatedSource, Entry
from coca.data.sources.base import SourceConfig, register_source, single_path
from coca.data.sources.folder import sized_files
from coca.data.storage.storage import Storage


@dataclass(frozen=True, kw_only=True)
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

    Raises:
        DataError: A folder or file is missing, a folder has no name, or two have the same.
    """

    def __init__(self, config: ClassFoldersConfig) -> None:
        root = single_path(config)
        if not os.path.isdir(root):
            raise DataError(f"{root} is no folder; it should hold one a class", reason="missing")
        files = [
            (path.replace(os.sep, "/"), size)
            for path, size in sized_files(root)
            if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES and os.sep in path
        ]
        named = _named({path.partition("/")[0] for path, _ in files}, config)
        kept = [(path, size) for path, size in files if path.partition("/")[0] in named]
        entries = [
            Entry(os.path.splitext(path)[0], path, (), (named[folder],), {"folder": folder})
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
    """Read the map from folder to class name from a file in one of the formats above.

    Raises:
        DataError: The file is missing, or has none of the formats.
    """
    text = parse_text(Storage().read_all(path), path)
    if not path.endswith(".json"):
        lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
        return {first: _first_name(rest[0] if rest else first) for first, *rest in lines}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}", reason="bad_record") from error
    if isinstance(content, list):
        content = {str(index): name for index, name in enumerate(content)}
    names: dict[str, str] = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, list) and len(value) == 2:
            names[str(value[0])] = names[key] = str(value[1])
        else:
            names[key] = str(value)
    if not names:
        raise DataError(
            f"{path} names no class; see coca.data.sources.class_folders", reason="bad_record"
        )
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
    text = parse_text(Storage().read_all(path), path)
    if path.endswith(".json"):
        try:
            listed = [str(name) for name in json.loads(text)]  # an object yields its keys
        except (ValueError, RecursionError, TypeError) as error:
            raise DataError(f"{path} is no list in JSON: {error}", reason="bad_record") from error
        return [(name.casefold(), name) for name in listed]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line.casefold(), line.split()[0], line) for line in lines]


def _first_name(names: str) -> str:
    """Return the first of several comma-separated names."""
    return names.partition(",")[0].strip()


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

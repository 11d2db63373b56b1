"""Export of a collection as a static page: an ONNX graph, vectors, thumbnails, ONNX Runtime Web.

index.html, *.js, *.css       the page
ort/                          ONNX Runtime Web, from npm
model/                        text.onnx, tokenizer.json, preprocess.json
queries.json                  rules of short queries, see `coca.search.query.query_terms`
collection.json               the items
vectors.bin                   vectors of the images as 8-bit numbers, in the order of the items
thumbnails/, images/          two JPEG files an item

Dimensions: N items, E embedding.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image

from coca.cli.options.defaults import search_uri
from coca.core.config.frozen_config import Config, load_config
from coca.core.errors import ConfigError, DataError, SearchError, UnsupportedError
from coca.core.files.atomic import atomic_folder
from coca.core.progress import ProgressMaker
from coca.experimental.npm import npm_packages
from coca.runtime.files import (
    PREPROCESS_FILE,
    TOKENIZER_FILE,
    TOWER_TOKENIZER_FILE,
    is_exported,
    read_manifest,
)
from coca.runtime.image_file import read_image
from coca.runtime.tokenizer_file import build_tokenizer, read_content
from coca.search.query.originals import read_original
from coca.search.query.query_terms import RULES
from coca.search.records import Record, check_same_model
from coca.search.store import Collection
from coca.search.stores import open_collection
from coca.workflows.collections.image_resolver import ImageResolver

PAGE = Path(__file__).parent / "page"
RUNTIME_PACKAGE, RUNTIME_VERSION = "onnxruntime-web", "1.30.0"
"""Package of npm; the page needs the same two files of other versions from 1.27."""
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
TOKENIZER_PARTS = {
    "normalizer": ("normalizers", {"Lowercase", "NFC", "Strip"}),
    "pre_tokenizer": ("pretokenizers", {"ByteLevel", "Split"}),
}
"""Section of `tokenizer.json` -> key of its list of parts, and the parts that the page knows."""
THUMBNAIL_SIDE, IMAGE_SIDE = 320, 1_024
"""Maximum length of the longer side of a thumbnail and of an enlarged image, in pixels."""


class PageConfig(Config):
    """Options of `coca export --format browser`."""

    uri: str = ""
    """Path of a SQLite file or URI of Milvus with the collection; empty: as for `coca search`."""
    collection: str | None = None
    """Name of the collection; null: the only one, else `pictures`."""
    token: str = ""
    """Token of the Milvus server."""
    packages: Path | None = None
    """A node_modules folder with onnxruntime-web; null: npm downloads it."""
    int8: bool = True
    """Use 8-bit weights of the text encoder, a smaller download."""


def write(
    model: str, out: Path, *, options: Mapping[str, str], progress: ProgressMaker
) -> dict[str, Any]:
    """Write a static page that searches a collection by text, without a server.

    Returns:
        Number of items, number of items without a thumbnail, and size in MB.
    """
    given = [f"{key}={value}" for key, value in options.items()]
    config = load_config(PageConfig, {}, overrides=given)
    packages = [f"{RUNTIME_PACKAGE}@{RUNTIME_VERSION}"]
    with (
        npm_packages(packages, config.packages) as folder,
        open_collection(
            search_uri(config.uri), config.collection, token=config.token
        ) as collection,
        _exported(model, int8=config.int8, progress=progress) as graphs,
        atomic_folder(out) as unfinished,
    ):
        _write_program(unfinished, folder / RUNTIME_PACKAGE)
        size = _write_model(unfinished, model, graphs, collection)
        records = sorted_records(collection)
        vectors = np.stack([record.vector for record in records])
        (unfinished / "vectors.bin").write_bytes(vector_bytes(vectors))
        items, missing = write_items(unfinished, records, progress=progress)
        about = {"title": collection.info.collection, "embed_dim": size, "items": items}
        (unfinished / "collection.json").write_text(
            json.dumps(about, ensure_ascii=False), encoding="utf-8"
        )
        total = sum(path.stat().st_size for path in unfinished.rglob("*") if path.is_file())
    return {"items": len(items), "without_thumbnail": missing, "size_mb": round(total / 1e6, 1)}


def _write_program(folder: Path, runtime: Path) -> None:
    """Copy the page, the rules of queries and ONNX Runtime Web."""
    for name in RUNTIME_FILES:
        if not (runtime / "dist" / name).is_file():
            raise ConfigError(
                f"{runtime.parent} has no {RUNTIME_PACKAGE} with the file dist/{name}; install "
                f"{RUNTIME_PACKAGE}@{RUNTIME_VERSION} there"
            )
    shutil.copytree(PAGE, folder, dirs_exist_ok=True)
    (folder / "ort").mkdir()
    for name in RUNTIME_FILES:
        shutil.copyfile(runtime / "dist" / name, folder / "ort" / name)
    rules = json.dumps(RULES, ensure_ascii=False)
    (folder / "queries.json").write_text(rules, encoding="utf-8")


def _write_model(folder: Path, model: str, graphs: Path, collection: Collection) -> int:
    """Copy the text encoder and its tokenizer; return the size of the embeddings."""
    manifest = read_manifest(graphs)
    if TOWER_TOKENIZER_FILE in manifest.files:
        raise UnsupportedError(
            f"the page has tokenizers of CoCa models only, and {model} has that of another "
            "library; serve it with `coca serve`"
        )
    # Vectors may be shorter than those of the model.
    size = min(collection.info.embed_dim, manifest.embed_dim)
    check_same_model(collection.info, fingerprint=manifest.fingerprint, embed_dim=size)
    check_tokenizer(graphs / TOKENIZER_FILE)
    (folder / "model").mkdir()
    for name in ("text.onnx", TOKENIZER_FILE, PREPROCESS_FILE):
        shutil.copyfile(graphs / name, folder / "model" / name)
    return size


def check_tokenizer(path: Path) -> None:
    """Check that a browser can run a `tokenizer.json`, and that it is safe to run."""
    content = read_content(path)
    build_tokenizer(content, path)
    if (kind := content["model"]["type"]) != "BPE":
        raise ConfigError(f"the page runs tokenizers of the type BPE, got {kind}")
    for section, (key, known) in TOKENIZER_PARTS.items():
        whole = content[section] or {"type": "Sequence", key: []}
        for part in whole[key] if whole["type"] == "Sequence" else [whole]:
            if part["type"] not in known:
                raise ConfigError(
                    f"the page knows no {section} of the type {part['type']}, only "
                    f"{', '.join(sorted(known))}"
                )


def sorted_records(collection: Collection) -> list[Record]:
    """Read the records of a collection that are not hidden, sorted by id, and each image once."""
    records: dict[str, Record] = {}
    for page in collection.pages():
        for record in page:
            if not record.hidden:
                records.setdefault(record.content or record.id, record)
    if not records:
        raise SearchError(
            f"collection {collection.info.collection!r} in {collection.info.uri} is empty"
        )
    return list(records.values())


def vector_bytes(vectors: Float32[np.ndarray, "N E"]) -> bytes:
    """Encode vectors as N 32-bit floats, then N times E numbers of 8 bits, little-endian.

    The numbers of a vector times its float are the vector, rounded, with length 1.
    """
    codes = np.rint(vectors / np.abs(vectors).max(axis=1, keepdims=True) * 127).astype(np.int8)
    factors = 1 / np.linalg.norm(codes.astype(np.float32), axis=1)
    return bytes(factors.astype("<f4").tobytes() + codes.tobytes())


def write_items(
    folder: Path, records: Sequence[Record], *, progress: ProgressMaker
) -> tuple[list[dict[str, Any]], int]:
    """Write the thumbnails and enlarged images of a collection; describe its items.

    An image that cannot be read any more has no thumbnail.

    Returns:
        The fields of each item, and the number of items without a thumbnail.
    """
    (folder / "thumbnails").mkdir()
    (folder / "images").mkdir()
    thumbnails: dict[str, dict[str, Any]] = {}
    read = ImageResolver()
    with progress("writing thumbnails", len(records)) as bar:
        # A container of several images is then opened once.
        for record in sorted(records, key=lambda record: record.path):
            thumbnails[record.id] = _thumbnail(folder, record, read)
            bar.advance()
    items = [
        {
            "id": record.id,
            "name": record.path.rsplit("/", 1)[-1],
            "caption": record.caption,
            "tags": list(record.tags),
            # Of a folder its name, as its path is of the machine of the collection.
            "album": record.album.rstrip("/").rsplit("/", 1)[-1],
            "year": _year(record.time),
            **thumbnails[record.id],
        }
        for record in records
    ]
    return items, sum(not files for files in thumbnails.values())


def _thumbnail(folder: Path, record: Record, read: ImageResolver) -> dict[str, Any]:
    """Write both files of an image; return their paths and the thumbnail's size.

    Nothing is written if the image cannot be read.
    """
    try:
        image = read_image(read_original(record, read), at_least=IMAGE_SIDE)
    except DataError:
        return {}
    # An id may contain any characters.
    name = f"{hashlib.sha256(record.id.encode()).hexdigest()[:24]}.jpg"
    for kind, side in (("images", IMAGE_SIDE), ("thumbnails", THUMBNAIL_SIDE)):
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        image.save(folder / kind / name, "JPEG", quality=82)
    return {
        "thumbnail": f"thumbnails/{name}",
        "image": f"images/{name}",
        "width": image.width,
        "height": image.height,
    }


def _year(seconds: int) -> int | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).year if seconds else None
    except (OverflowError, OSError, ValueError):
        return None


@contextmanager
def _exported(model: str, *, int8: bool, progress: ProgressMaker) -> Iterator[Path]:
    """Yield the folder of an exported model; any other model is exported first."""
    if is_exported(model):
        yield Path(model)
        return
    from coca.release.onnx.onnx_export import export_onnx

    with TemporaryDirectory() as folder:
        export_onnx(model, Path(folder) / "onnx", int8=int8, progress=progress)
        yield Path(folder) / "onnx"

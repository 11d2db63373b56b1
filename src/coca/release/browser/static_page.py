"""Export of a collection as a static page: ONNX graphs, vectors, thumbnails, ONNX Runtime Web.

index.html, *.js, *.css       the page
ort/                          ONNX Runtime Web, from npm
model/                        text.onnx, vision.onnx, tokenizer.json, preprocess.json
queries.json                  rules of short queries, see `coca.search.query.query_terms`
collection.json               the items, and the ranking of typed queries
vectors.bin                   vectors of the images as 8-bit numbers, in the order of the items
caption_vectors.bin           those of the captions, if people gave some of them
thumbnails/, images/          two JPEG files an item

Dimensions: N items, E embedding.
"""

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image

from coca.core.errors import ConfigError, DataError, SearchError, UnsupportedError
from coca.core.files.atomic import atomic_folder
from coca.core.progress import ProgressMaker, silent
from coca.runtime.files import (
    PREPROCESS_FILE,
    TOKENIZER_FILE,
    TOWER_TOKENIZER_FILE,
    is_exported,
    read_manifest,
)
from coca.runtime.image_file import read_image
from coca.runtime.tokenizer_file import build_tokenizer, read_content
from coca.search.milvus.collection import Collection
from coca.search.query.originals import read_original
from coca.search.query.query_terms import RULES
from coca.search.query.words import K1, STOP_WORDS, B, split_words, stems, stop_terms
from coca.search.records import Record, check_same_model, is_hidden
from coca.search.search_options import Ranking
from coca.workflows.collections.image_resolver import ImageResolver

# Ranking of typed queries for the page, as Python has it.


def ranking_settings(records: Sequence[Record]) -> dict[str, Any] | None:
    """Describe the ranking of typed queries by image, caption and words.

    Returns:
        Settings for `ranking.js` and `bm25.js`. None if no caption counts, so that typed queries
        are ranked by image alone.
    """
    ranking = Ranking()
    captions = [record.caption if ranking.counts(record) else "" for record in records]
    if not any(captions):
        return None
    return asdict(ranking) | {"bm25": word_table(captions)}


def word_table(captions: Sequence[str]) -> dict[str, Any]:
    """Build the words of captions for `bm25.js`, which has no stemmer.

    Words of a query are looked up among those of the captions, those of the stop words, and their
    inflected forms in English.

    Returns:
        Rows and counts of each term (`terms`), the term of each known word (`forms`), terms of stop
        words (`stop`), number of words of each caption (`lengths`), and constants of BM25.
    """
    words = [split_words(caption) for caption in captions]
    terms: dict[str, list[tuple[int, int]]] = {}
    for row, some in enumerate(words):
        for term, count in Counter(stems(some)).items():
            terms.setdefault(term, []).append((row, count))
    known = sorted({word for some in words for word in some} | set(split_words(STOP_WORDS)))
    inflected = [form for word in known for form in _inflections(word)]
    forms = dict(zip(inflected, stems(inflected), strict=True))
    wanted = terms.keys() | stop_terms()
    return {
        "terms": terms,
        "forms": {word: term for word, term in forms.items() if term in wanted and word != term},
        "stop": sorted(stop_terms()),
        "lengths": [len(some) for some in words],
        "k1": K1,
        "b": B,
        "casefold": casefold_exceptions(),
    }


def _inflections(word: str) -> list[str]:
    """Return a word, its likely base forms, and the regular forms of all of them in English."""
    if not word.isalpha():
        return [word]
    bases = {word, *(word.removesuffix(ending) for ending in ("s", "es", "ed", "ing"))}
    bases |= {word[: -len(ending)] + "y" for ending in ("ies", "ied") if word.endswith(ending)}
    bases |= {base + "e" for base in bases - {word}}
    bases |= {base[:-1] for base in bases if base[-2:-1] == base[-1:]}
    forms = set(bases)
    for base in bases:
        stem = base.removesuffix("e")
        forms |= {base + "s", base + "es", stem + "ed", stem + "ing", base + "'s"}
        forms |= {base + base[-1:] + ending for ending in ("ed", "ing")}
        if base.endswith("y"):
            forms |= {base[:-1] + "ies", base[:-1] + "ied"}
    return sorted(form for form in forms if len(form) > 1)


def casefold_exceptions() -> dict[str, str]:
    """Map each character to its case folding where that differs from its lower case.

    JavaScript has lower case, but no case folding.
    """
    characters = map(chr, range(sys.maxunicode + 1))
    return {one: one.casefold() for one in characters if one.casefold() != one.lower()}


# Items of a static page: fields, vectors and thumbnails, in the order of their ids.


THUMBNAIL_SIDE, IMAGE_SIDE = 320, 1_024
"""Maximum length of the longer side of a thumbnail and of an enlarged image, in pixels."""


def sorted_records(collection: Collection) -> list[Record]:
    """Read the records of a collection that are not hidden, sorted by id."""
    read = (record for batch in collection.read_through() for record in batch)
    records = sorted(
        (record for record in read if not is_hidden(record.metadata)), key=lambda one: one.id
    )
    if not records:
        raise SearchError(
            f"collection {collection.info.collection!r} in {collection.info.uri} is empty"
        )
    return records


def write_vectors(folder: Path, records: Sequence[Record], *, captions: bool) -> None:
    """Write `vectors.bin`, and with `captions` also `caption_vectors.bin`.

    A caption without a vector has zeros.
    """
    vectors = np.stack([record.vector for record in records])
    (folder / "vectors.bin").write_bytes(vector_bytes(vectors))
    if captions:
        none = np.zeros_like(records[0].vector)
        found = [none if one.text_vector is None else one.text_vector for one in records]
        (folder / "caption_vectors.bin").write_bytes(vector_bytes(np.stack(found)))


def vector_bytes(vectors: Float32[np.ndarray, "N E"]) -> bytes:
    """Encode vectors as N 32-bit floats, then N times E numbers of 8 bits, little-endian.

    The numbers of a vector times its float are the vector, rounded, with length 1; 0 for zeros.
    """
    largest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-30)
    codes = np.rint(vectors / largest * 127).astype(np.int8)
    lengths = np.linalg.norm(codes.astype(np.float32), axis=1)
    factors = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return bytes(factors.astype("<f4").tobytes() + codes.tobytes())


def write_items(
    folder: Path, records: Sequence[Record], *, progress: ProgressMaker = silent
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
        for record in sorted(records, key=lambda one: one.path):
            thumbnails[record.id] = _thumbnail(folder, record, read)
            bar.advance()
    items = [
        {
            "id": record.id,
            "name": record.path.rsplit("/", 1)[-1],
            "caption": record.caption,
            "caption_source": record.caption_source,
            "tags": list(record.tags),
            # Of a folder its name, as its path is of the machine of the collection.
            "album": record.album.rstrip("/").rsplit("/", 1)[-1],
            "year": _year(record.time),
            **thumbnails[record.id],
        }
        for record in records
    ]
    return items, sum(not one for one in thumbnails.values())


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


PAGE = Path(__file__).parent / "page"
RUNTIME_PACKAGE, RUNTIME_VERSION = "onnxruntime-web", "1.30.0"
"""Package of npm; the page needs the same two files of other versions from 1.27."""
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
TOKENIZER_PARTS = {
    "normalizer": ("normalizers", {"Lowercase", "NFC", "Strip"}),
    "pre_tokenizer": ("pretokenizers", {"ByteLevel", "Split"}),
}
"""Section of `tokenizer.json` -> key of its list of parts, and the parts that the page knows."""


@dataclass(frozen=True, kw_only=True)
class BrowserResult:
    """Content of an exported page."""

    out: str
    """The folder."""
    items: int
    """Number of items."""
    without_thumbnail: int
    """Number of items whose image cannot be read any more."""
    size_mb: float
    """Size of all files, in MB."""


def export_browser(
    model: str | Path,
    out: str | Path,
    *,
    uri: str,
    collection: str,
    packages: Path,
    token: str = "",
    int8: bool | None = None,
    image_search: bool = True,
    progress: ProgressMaker = silent,
) -> BrowserResult:
    """Write a static page that searches a collection by text and by image, without a server."""
    runtime = packages / RUNTIME_PACKAGE
    for name in RUNTIME_FILES:
        if not (runtime / "dist" / name).is_file():
            raise ConfigError(
                f"{packages} has no {RUNTIME_PACKAGE} with the file dist/{name}; install "
                f"{RUNTIME_PACKAGE}@{RUNTIME_VERSION} there"
            )
    with (
        Collection.open(uri, collection, token=token) as opened,
        _exported(model, int8=int8, progress=progress) as graphs,
        atomic_folder(out) as unfinished,
    ):
        manifest = read_manifest(graphs)
        if TOWER_TOKENIZER_FILE in manifest.files:
            raise UnsupportedError(
                f"the page has tokenizers of CoCa models only, and {model} has that of another "
                "library; serve it with `coca serve`"
            )
        # Vectors may be shorter than those of the model.
        size = min(opened.info.embed_dim, manifest.embed_dim)
        check_same_model(opened.info, fingerprint=manifest.fingerprint, embed_dim=size)
        shutil.copytree(PAGE, unfinished, dirs_exist_ok=True)
        (unfinished / "model").mkdir()
        for name in ("text.onnx", TOKENIZER_FILE, PREPROCESS_FILE):
            shutil.copyfile(graphs / name, unfinished / "model" / name)
        check_tokenizer(graphs / TOKENIZER_FILE)
        if image_search:
            shutil.copyfile(graphs / "vision.onnx", unfinished / "model" / "vision.onnx")
        (unfinished / "ort").mkdir()
        for name in RUNTIME_FILES:
            shutil.copyfile(runtime / "dist" / name, unfinished / "ort" / name)
        rules = json.dumps(RULES, ensure_ascii=False)
        (unfinished / "queries.json").write_text(rules, encoding="utf-8")
        records = sorted_records(opened)
        ranking = ranking_settings(records)
        write_vectors(unfinished, records, captions=ranking is not None)
        items, missing = write_items(unfinished, records, progress=progress)
        about = {
            "title": collection,
            "fingerprint": manifest.fingerprint,
            "embed_dim": size,
            "image_search": image_search,
            "ranking": ranking,
            "items": items,
        }
        (unfinished / "collection.json").write_text(
            json.dumps(about, ensure_ascii=False), encoding="utf-8"
        )
        total = sum(path.stat().st_size for path in unfinished.rglob("*") if path.is_file())
    return BrowserResult(
        out=str(out), items=len(items), without_thumbnail=missing, size_mb=round(total / 1e6, 1)
    )


def check_tokenizer(path: Path) -> None:
    """Check that a browser can run a `tokenizer.json`, and that it is safe to run."""
    content = read_content(path)
    build_tokenizer(content, path)
    if (kind := content["model"]["type"]) != "BPE":
        raise ConfigError(f"the page runs tokenizers of the type BPE, got {kind}")
    for section, (key, known) in TOKENIZER_PARTS.items():
        part = content[section] or {"type": "Sequence", key: []}
        for one in part[key] if part["type"] == "Sequence" else [part]:
            if one["type"] not in known:
                raise ConfigError(
                    f"the page knows no {section} of the type {one['type']}, only "
                    f"{', '.join(sorted(known))}"
                )


@contextmanager
def _exported(model: str | Path, *, int8: bool | None, progress: ProgressMaker) -> Iterator[Path]:
    """Yield the folder of an exported model; any other model is exported first."""
    if is_exported(model):
        if int8 is not None:
            raise ConfigError(f"{model} is exported already: --int8 does not apply, leave it out")
        yield Path(model)
        return
    from coca.release.onnx.onnx_export import export_onnx

    with TemporaryDirectory() as folder:
        export_onnx(model, Path(folder) / "onnx", int8=int8 is not False, progress=progress)
        yield Path(folder) / "onnx"

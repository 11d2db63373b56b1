"""Export of a collection as a static page: ONNX graphs, vectors, thumbnails, ONNX Runtime Web.

index.html, *.js, *.css       the page
ort/                          ONNX Runtime Web, from npm
model/                        text.onnx, vision.onnx, tokenizer.json, preprocess.json
queries.json                  rules of short queries, see `coca.search.query.short_queries`
collection.json               the items, and the settings of hybrid search
vectors.bin                   vectors of the images as 16-bit floats, in the order of the items
caption_vectors.bin           those of the captions, if people gave some of them
thumbnails/                   one JPEG file an item
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from coca.core.errors import ConfigError
from coca.core.files.atomic import atomic_folder
from coca.core.npm import npm_install
from coca.core.progress import ProgressMaker, silent
from coca.release.browser.hybrid import hybrid_settings
from coca.release.browser.items import sorted_records, write_items, write_vectors
from coca.runtime.files import PREPROCESS_FILE, TOKENIZER_FILE, is_exported, read_manifest
from coca.runtime.tokenizer_file import build_tokenizer, read_content
from coca.search.milvus.collection import Collection
from coca.search.query.short_queries import RULES
from coca.search.records import check_same_model

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


def install_runtime(folder: Path) -> Path:
    """Install ONNX Runtime Web by npm; return the `node_modules` folder.

    Raises:
        ConfigError: npm is not installed.
        StorageError: npm fails.
    """
    return npm_install(folder, [f"{RUNTIME_PACKAGE}@{RUNTIME_VERSION}"])


def export_browser(
    model: str | Path,
    out: str | Path,
    *,
    uri: str,
    collection: str,
    packages: Path,
    token: str = "",
    int8: bool = False,
    image_search: bool = True,
    progress: ProgressMaker = silent,
) -> BrowserResult:
    """Write a static page that searches a collection by text and by image, without a server.

    Args:
        model: The model of the collection: any name that `coca.load` accepts, or a folder of
            `coca export --format onnx`, which is copied.
        out: Output folder; an existing one is replaced.
        uri: URI of the collection.
        collection: Name of the collection.
        packages: A `node_modules` folder with ONNX Runtime Web.
        token: `"user:password"` or an API key, if the server requires one.
        int8: Quantize the encoders to 8 bits, unless the model is exported already.
        image_search: Include the image encoder.
        progress: Optional progress callback.

    Raises:
        ConfigError: The packages lack ONNX Runtime Web, or the page cannot run the tokenizer.
        ModelError: There is no such model, or its exported files differ too much from torch.
        SearchError: The collection is missing, empty, or was filled by another model.
    """
    runtime = packages / RUNTIME_PACKAGE
    for name in RUNTIME_FILES:
        if not (runtime / "dist" / name).is_file():
            raise ConfigError(
                f"{packages} holds no {RUNTIME_PACKAGE} with the file dist/{name}; install "
                f"{RUNTIME_PACKAGE}@{RUNTIME_VERSION} there"
            )
    with (
        Collection.open(uri, collection, token=token) as index,
        _exported(model, int8=int8, progress=progress) as graphs,
        atomic_folder(out) as unfinished,
    ):
        manifest = read_manifest(graphs)
        # Vectors may be shorter than those of the model.
        size = min(index.info.embed_dim, manifest.embed_dim)
        check_same_model(index.info, fingerprint=manifest.fingerprint, embed_dim=size)
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
        records = sorted_records(index)
        hybrid = hybrid_settings(index, records)
        write_vectors(unfinished, records, captions=hybrid is not None)
        items, missing = write_items(unfinished, records, progress=progress)
        about = {
            "title": collection,
            "fingerprint": manifest.fingerprint,
            "embed_dim": size,
            "image_search": image_search,
            "hybrid": hybrid,
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
    """Check that a browser can run a `tokenizer.json`, and that it is safe to run.

    Raises:
        ConfigError: The page does not know a part; the message names it.
        ModelError: The file is damaged, or has an unsafe part.
    """
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
def _exported(model: str | Path, *, int8: bool, progress: ProgressMaker) -> Iterator[Path]:
    """Yield the folder of an exported model; any other model is exported first."""
    if is_exported(model):
        if int8:
            raise ConfigError(f"{model} is exported already: --int8 does not apply, leave it out")
        yield Path(model)
        return
    from coca.release.onnx.export import export_onnx

    with TemporaryDirectory() as folder:
        export_onnx(model, Path(folder) / "onnx", int8=int8, progress=progress)
        yield Path(folder) / "onnx"

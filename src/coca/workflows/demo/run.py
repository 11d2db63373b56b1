"""The demo: index, search and caption the photos in the package, or a folder of one's own.

The photos are of Flickr under CC BY 2.0, without captions. They are one zip in the package, which
`recipes/data/demo_photos.py` writes; its `photos.jsonl` has a line with the credit of each photo.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from zipfile import ZipFile

from coca.core.errors import DataError
from coca.core.files.atomic import atomic_folder, write_atomic
from coca.model.shipped import DEFAULT_MODEL
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.search.ingest.sources import FileSource
from coca.search.query.engine import SearchEngine
from coca.search.records import Hit
from coca.search.stores import open_store
from coca.tasks.task import Example, ImageRow
from coca.workflows.collections.collection_model import infos_at, open_collection
from coca.workflows.collections.index import index_sources
from coca.workflows.evaluation.report import Section, parameters_shown, render

# The photos in the package and their credits.

ARCHIVE, TABLE, CREDITS = "photos.zip", "photos.jsonl", "CREDITS.md"
"""Name of the zip in this package, of the table in the zip, and of the credits next to photos."""
LICENCE = "https://creativecommons.org/licenses/by/2.0/"
CHANGES = "cropped, resized and compressed"
"""What was changed in all photos."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One photo and its credit."""

    name: str
    """File name."""
    author: str
    author_url: str
    page: str
    """Page of the photo on Flickr."""
    shows: str
    """Name of its class. No search reads it."""


def read_table() -> list[Photo]:
    """Read the credits of all photos."""
    with _archive() as archive:
        return [Photo(**json.loads(line)) for line in archive.read(TABLE).splitlines()]


def write_photos(folder: Path) -> list[tuple[Path, Photo]]:
    """Write the photos to a folder, each with a sidecar of its credit, and a page of all credits.

    Nothing is written if the folder has these photos.
    """
    photos = read_table()
    page = credits_page(photos)
    written = folder / CREDITS
    if not (written.exists() and written.read_text(encoding="utf-8") == page):
        shutil.rmtree(folder, ignore_errors=True)
        with atomic_folder(folder) as unfinished, _archive() as archive:
            for photo in photos:
                path = unfinished / photo.name
                path.write_bytes(archive.read(photo.name))
                credit = {
                    "author": photo.author,
                    "author_url": photo.author_url,
                    "page": photo.page,
                    "license": LICENCE,
                    "changes": CHANGES,
                }
                path.with_suffix(".json").write_text(json.dumps(credit), encoding="utf-8")
            (unfinished / CREDITS).write_text(page, encoding="utf-8")
    return [(folder / photo.name, photo) for photo in photos]


def credits_page(photos: Sequence[Photo]) -> str:
    """Format the credits as Markdown."""
    lines = [
        f"- [{_escaped(photo.author)}]({photo.author_url}): [{photo.name}]({photo.page})"
        for photo in photos
    ]
    return (
        "# Credits of the demo's photos\n\n"
        f"{len(photos)} photos of Flickr, each licensed under [CC BY 2.0]({LICENCE}). All were "
        f"{CHANGES}.\nEach line has the author and the page of a photo.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _archive() -> ZipFile:
    return ZipFile(str(resources.files("coca.workflows.demo") / ARCHIVE))


def _escaped(text: str) -> str:
    return "".join("\\" + letter if letter in r"\`*_[]<>|#" else letter for letter in text)


# The run and its report.

PHOTO_QUERIES = (
    "dog",
    "boat on the water",
    "flower",
    "food on a plate",
    "red car",
    "bird",
    "people on the street",
    "mushroom",
    # No photo shows these.
    "submarine",
    "xqzzy flurb",
)
ALBUM_QUERIES = (
    "a dog",
    "people outdoors",
    "a child playing",
    "food on a table",
    "a red car",
    "snow",
    "the sea",
    "a building",
    "flowers",
    "a drawing",
)
"""Queries that many albums answer."""
HITS, SIMILAR, CAPTIONED = 8, 3, 24
"""Hits of a query, searches by image, and images with a caption in the report."""


@dataclass(frozen=True)
class DemoResult:
    """Result of the demo."""

    uri: str
    """Path of the SQLite file, or address of Milvus."""
    collection: str
    """Name of the collection."""
    report: Path
    """HTML report."""
    example: Path
    """An image, for example commands."""
    count: int
    """Number of images in the collection."""


def demo(
    folder: str | Path,
    *,
    images: str | Path | None = None,
    model: str | Path = DEFAULT_MODEL,
    uri: str = "",
    log: Callable[[str], None] = lambda line: None,
) -> DemoResult:
    """Index images, then write a report of searches and captions.

    A second call embeds only new and changed images.

    Args:
        folder: Output folder.
        images: Folder of images; None: the photos in the package, which are captioned, too.
        model: Name or folder of the model.
        uri: Path of a SQLite file, or address of Milvus, for a collection `demo`; default:
            `pictures.db` in the folder, with a collection `pictures`.
        log: Receives a line before each step.

    Raises:
        DataError: The folder has no readable image.
        ModelError: There is no such model.
    """
    folder = Path(folder)
    # Loaded first, so that a missing model fails before anything is written.
    predictor = load_coca(model)
    source = folder / "photos" if images is None else Path(images).expanduser()
    queries = PHOTO_QUERIES if images is None else ALBUM_QUERIES
    if images is None:
        write_photos(source)
    # Images of others may be in `pictures` of a server.
    collection = "demo" if uri else "pictures"
    uri, report = uri or str(folder / "pictures.db"), folder / "report.html"
    folder.mkdir(parents=True, exist_ok=True)
    _forget_other_model(uri, collection, predictor)
    log(f"indexing {source} in {uri}")
    index_sources(
        [FileSource([source])],
        predictor,
        uri=uri,
        collection=collection,
        captions=images is None,
    )
    with open_collection(predictor, uri, collection) as opened:
        pages = opened.pages(vectors=False)
        paths = sorted(Path(record.path) for page in pages for record in page)
        if not paths:
            raise DataError(f"{source} has no readable image", reason="missing")
        shown = paths[:: max(1, len(paths) // CAPTIONED)][:CAPTIONED]
        engine = SearchEngine(predictor, opened)
        by_text = {text: engine.search(text, limit=HITS) for text in queries}
        # The first hit is the image itself.
        by_image = {path: engine.search(image=path, limit=HITS)[1:] for path in shown[:SIMILAR]}
    log(f"captioning {len(shown)} images, and writing the report")
    captions = predictor.caption(shown)
    size = parameters_shown(sum(weight.numel() for weight in predictor.model.parameters()))
    lead = f"{model}, a CoCa of {size} parameters, on {len(paths):,} images of {source}."
    if images is None:
        lead += (
            f" The photos are of Flickr (CC BY 2.0, {CHANGES}); {CREDITS} next to them links each "
            "to its page. Their captions are by the model, and no search reads them; where it is "
            "not certain, there is a noun or nothing. No photo shows the last two queries."
        )
    texts = [caption.certain() or "(not certain)" for caption in captions]
    sections = _sections(by_text, by_image, dict(zip(shown, texts, strict=True)))
    write_atomic(report, render("CoCa on your images", lead, sections).encode())
    return DemoResult(uri, collection, report, shown[0], len(paths))


def _sections(
    by_text: Mapping[str, Sequence[Hit]],
    by_image: Mapping[Path, Sequence[Hit]],
    captions: Mapping[Path, str],
) -> list[Section]:
    """Lay out the searches and captions for the report."""
    similar = [
        ImageRow("An image", _examples(hits), lead=Example(("the query",), path))
        for path, hits in by_image.items()
    ]
    captioned = tuple(Example((text,), path) for path, text in captions.items())
    return [
        Section(
            "Searches by text",
            "The nearest images to each query; the score is the cosine.",
            [ImageRow(f"“{text}”", _examples(hits)) for text, hits in by_text.items()],
        ),
        Section("Searches by image", "The nearest images to an image.", similar),
        Section(
            "Captions",
            "Written by the model, which reads the image alone.",
            [ImageRow(f"{len(captions)} images", captioned)],
        ),
    ]


def _examples(hits: Sequence[Hit]) -> tuple[Example, ...]:
    """Format hits as a caption if there is one, the cosine, and the author of the photo."""
    return tuple(
        Example(
            (
                *filter(None, [hit.caption]),
                f"{hit.score:.2f}",
                *(f"photo: {author}" for author in [hit.metadata.get("author")] if author),
            ),
            Path(hit.path),
        )
        for hit in hits
    )


def _forget_other_model(uri: str, collection: str, predictor: TorchPredictor) -> None:
    """Drop the collection of an earlier demo that was filled by another model."""
    info = infos_at(uri).get(collection)
    if info is not None and info.fingerprint != predictor.fingerprint:
        with open_store(uri) as store:
            store.drop(collection)

"""Demo on a folder of the reader's own images: index, search, caption, report."""

from collections.abc import Callable
from pathlib import Path

from coca.core.errors import DataError
from coca.core.files.atomic import write_atomic
from coca.core.progress import ProgressMaker, silent
from coca.demo.run import DemoResult, forget_other_model
from coca.inference.loading import load
from coca.search.ingest.pipeline import ingest
from coca.search.ingest.sources import FileSource
from coca.search.query.engine import SearchEngine
from coca.tasks.task import Example, ImageRow
from coca.weights import DEFAULT_MODEL
from coca.workflows.collections.collection_model import open_collection
from coca.workflows.evaluation.report import Section, parameters_shown, render

QUERIES = (
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
"""Typed queries that many albums answer."""

HITS, CAPTIONED = 8, 24


def demo_on_images(
    images: str | Path,
    folder: str | Path = "runs/my-images",
    *,
    model: str | Path = DEFAULT_MODEL,
    progress: ProgressMaker = silent,
    log: Callable[[str], None] = lambda line: None,
) -> DemoResult:
    """Index a folder of images, then write a report of searches and captions.

    Only new and changed images are embedded by a second call.
    """
    images, folder = Path(images).expanduser(), Path(folder)
    predictor = load(model)
    uri, report = folder / "pictures.db", folder / "report.html"
    folder.mkdir(parents=True, exist_ok=True)
    forget_other_model(uri, predictor)
    log(f"indexing {images} in {uri}")
    with open_collection(predictor, str(uri), create=True) as collection:
        ingest([FileSource([images])], predictor, collection, progress=progress)
        paths = sorted(path for _, path, _, _ in collection.origins())
        if not paths:
            raise DataError(f"{images} has no readable image", reason="missing")
        engine = SearchEngine(predictor, collection)
        found = [(text, engine.search(text, k=HITS)) for text in QUERIES]
    log("captioning and writing the report")
    some = paths[:: max(1, len(paths) // CAPTIONED)][:CAPTIONED]
    captions = predictor.caption(some, progress=progress)
    size = parameters_shown(sum(weight.numel() for weight in predictor.model.parameters()))
    sections = [
        Section(
            "Searches",
            "The nearest images to each query; the score is the cosine.",
            [
                ImageRow(
                    f"“{text}”",
                    tuple(Example((f"{hit.score:.2f}",), Path(hit.path)) for hit in hits),
                )
                for text, hits in found
            ],
        ),
        Section(
            "Captions",
            "Written by the model, which reads the image alone.",
            [
                ImageRow(
                    f"{len(some)} of {len(paths):,} images",
                    tuple(
                        Example((caption.text,), Path(path))
                        for path, caption in zip(some, captions, strict=True)
                    ),
                )
            ],
        ),
    ]
    lead = f"{model}, a CoCa of {size} parameters, on {len(paths):,} images of {images}."
    write_atomic(report, render("CoCa on your images", lead, sections).encode())
    return DemoResult(
        folder=folder, model=str(model), index=uri, report=report, example=Path(some[0])
    )

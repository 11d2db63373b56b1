"""Demo workflow: index and search photos, then emoji of an unseen vendor; evaluate and report.

Photos and drawings are two collections of one database: in one collection, a drawing whose name has
a word of the query would rank above all photos, which have no names. The demo uses the shipped
model or trains one first. Each stage writes files to the demo's folder and is skipped if they
exist, so an interrupted demo resumes.
"""

import base64
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coca.core.config.frozen_config import digest, load_config
from coca.core.errors import CocaError, SearchError
from coca.core.files.atomic import atomic_folder, write_atomic, write_json
from coca.core.progress import ProgressMaker, silent
from coca.core.provenance import record
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig, ShardWriter
from coca.demo.emoji import VENDORS, emoji_samples
from coca.demo.photos import read_table, write_photos
from coca.demo.report import lead_of_shipped, lead_of_trained, write_report
from coca.inference.attention import draw_word_maps
from coca.inference.caching import caching
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.model.pretrained import CONFIG_FILE
from coca.runtime.prompts import prompts_named
from coca.search.ingest.sources import FileSource
from coca.search.milvus.collection import Collection
from coca.search.mining.recommend import recommend
from coca.search.mining.zero_shot import add_classes, nearest_classes
from coca.search.query.collection_copy import CollectionCopy
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import Term
from coca.search.records import Hit, content_id
from coca.search.search_options import Ranking
from coca.tasks import TASKS, TaskConfig
from coca.tasks.retrieval.keyword_search import match, read_answers
from coca.train.tracker import read_metrics
from coca.weights import DEFAULT_MODEL
from coca.workflows.collections.class_prompts import open_classes
from coca.workflows.collections.collection_model import open_collection
from coca.workflows.collections.index import index_sources
from coca.workflows.training.pretrain import PretrainConfig, pretrain

# Searches of the demo: text, image and filtered search, recommendation, zero-shot, updates.


TEXT_QUERIES = (
    "red car",
    "birthday cake",
    "a dog",
    "snow",
    "football",
    "smiling face",
    "key",
    "sailboat",
    "hamburger",
    "green heart",
)
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
DRAWINGS = "drawings"
"""Name of the collection of drawings; the photos are in the default collection."""
IMAGE_QUERIES = ("1f697", "1f438", "1f34e")
FILTERED_QUERY = ("red", 'metadata["group"] == "Food & Drink"')
POSITIVE, NEGATIVE = ("1f438", "green heart"), "1f697"
"""Positive examples (a drawing and a text), and a negative drawing."""
CLASSES, NAMED = 200, 8
"""Number of class names, and of drawings to classify."""
TAKEN_OUT = ("1f34e", "apple")

Images = Sequence[tuple[Path, Sample]]


@dataclass(frozen=True)
class QueryResult:
    """A query of the report with its hits."""

    text: str
    """The text query, or the name of the query image."""
    filter: str
    """Milvus filter expression; empty if there is none."""
    image: Path | None
    """The query image, or None."""
    hits: Sequence[Hit]
    """Hits, nearest first."""
    title: str = ""
    """Heading, for other operations than a search."""


def run_searches(engine: SearchEngine, images: Images) -> Iterator[QueryResult]:
    """Search drawings by text, with a filter, and by image."""
    for text in TEXT_QUERIES:
        yield QueryResult(text, "", None, engine.search(text, k=8))
    text, filter = FILTERED_QUERY
    yield QueryResult(text, filter, None, engine.search(text, k=8, filter=filter))
    by_code = {path.stem: (path, sample) for path, sample in images}
    for code in IMAGE_QUERIES:
        path, sample = by_code[code]
        # The first hit is the image itself.
        yield QueryResult(sample.captions[0], "", path, engine.search(image=path, k=9)[1:])


def score_search(engine: SearchEngine, images: Images) -> dict[str, int | float]:
    """Compute how many of the 100 everyday queries find a correct drawing by `coca search`.

    Queries without a correct drawing among `images` are left out.
    """
    answers = read_answers("everyday")
    assert answers is not None
    queries, relevant, _ = match(answers, [sample for _, sample in images])
    ids = np.array([content_id(sample.image) for _, sample in images])
    ranks = []
    for query, correct in zip(queries, relevant, strict=True):
        expected = {*ids[correct].tolist()}
        hits = engine.search(query, k=10)
        ranks.append(next((n for n, hit in enumerate(hits, 1) if hit.id in expected), np.inf))
    scores = {f"success@{k}": float((np.array(ranks) <= k).mean()) for k in (1, 5, 10)}
    return {**scores, "samples": len(queries)}


def use_collection(
    predictor: Predictor, collection: Collection, uri: str, images: Images
) -> Iterator[QueryResult]:
    """Recommend images, classify by a collection of classes, delete an image and add it again."""
    engine = SearchEngine(predictor, collection)
    by_code = {path.stem: (path, sample) for path, sample in images}
    (code, text), (path, sample) = POSITIVE, by_code[POSITIVE[0]]
    positive, negative = content_id(sample.image), content_id(by_code[NEGATIVE][1].image)
    hits = recommend(engine, [positive, Term(text=text)], negative=[negative], k=8)
    title = (
        f"Recommended: like “{sample.captions[0]}” and “{text}”, "
        f"unlike “{by_code[NEGATIVE][1].captions[0]}”"
    )
    yield QueryResult(sample.captions[0], "", path, hits, title)
    yield _named(predictor, uri, images)
    code, text = TAKEN_OUT
    id = content_id(by_code[code][1].image)
    taken_out = collection.get([id])
    collection.delete([id])
    hits = engine.search(text, k=8)
    yield QueryResult(text, "", None, hits, f"“{text}”, its drawing deleted")
    collection.upsert(taken_out.values())
    hits = engine.search(text, k=8)
    yield QueryResult(text, "", None, hits, f"“{text}”, its drawing re-added")


def _named(predictor: Predictor, uri: str, images: Images) -> QueryResult:
    """Classify some drawings by the nearest class in a collection of class names."""
    some = images[:: max(1, len(images) // CLASSES)][:CLASSES]
    names = list(dict.fromkeys(sample.captions[0] for _, sample in some))
    shown = some[:: max(1, len(some) // NAMED)][:NAMED]
    with open_classes(predictor, uri, "names", create=True) as classes:
        add_classes(classes, predictor, names, templates=prompts_named("drawing"))
        vectors = predictor.embed_images([sample.image for _, sample in shown])
        nearest = nearest_classes(CollectionCopy(classes), vectors, k=1)
    hits = [
        Hit(
            id=content_id(sample.image),
            score=best.score,
            path=str(path),
            caption=f"{best.label} (true: {sample.captions[0]})",
            metadata={},
        )
        for (path, sample), (best,) in zip(shown, nearest, strict=True)
    ]
    return QueryResult("", "", None, hits, f"Nearest of {len(names)} classes in Milvus")


SEEN, UNSEEN = VENDORS
"""Vendor of the training data, and vendor that no model here is trained on."""

CAPTIONED, EXPLAINED = 24, 3
CAPTION_PROMPT = "a drawing of"
RENDERED_PX = 96


@dataclass(frozen=True)
class DemoResult:
    """Result of the demo."""

    folder: Path
    """Output folder."""
    model: str
    """Name of the model for `coca.load`."""
    index: Path
    """Milvus Lite database."""
    report: Path
    """HTML report."""
    example: Path
    """A photo, for example commands."""
    interrupted: bool = False
    """Whether training was interrupted; the same call resumes it."""


def demo(
    folder: str | Path = "runs/demo",
    *,
    model: str | Path = DEFAULT_MODEL,
    progress: ProgressMaker = silent,
    log: Callable[[str], None] = lambda line: None,
) -> DemoResult:
    """Demonstrate a model on photos and on the unseen vendor; finished stages are skipped."""
    result = _result(Path(folder), str(model))
    # Loaded first, so that a missing model fails before the other stages.
    predictor = load(model)
    for vendor in VENDORS:
        _pack(result.folder / "shards" / vendor, vendor, progress, log)
    parameters = sum(weight.numel() for weight in predictor.model.parameters())
    lead = lead_of_shipped(str(model), parameters)
    _show(result, predictor, lead, progress, log)
    return result


def demo_from_scratch(
    folder: str | Path = "runs/from-scratch",
    *,
    recipe: str | Path = "recipes/pretrain/emoji.yaml",
    overrides: Sequence[str] = (),
    progress: ProgressMaker = silent,
    log: Callable[[str], None] = lambda line: None,
) -> DemoResult:
    """Train a model on one vendor, then demonstrate it on the other as `demo` does."""
    folder = Path(folder)
    result = _result(folder, str(folder / "model"))
    if not Path(recipe).exists():
        raise CocaError(f"the recipe {recipe} is not here; run the demo from the project's folder")
    for vendor in VENDORS:
        _pack(folder / "shards" / vendor, vendor, progress, log)
    config = _config(folder, recipe, overrides)
    if not _finished(config):
        size = config.data.loader.batch_size
        log(f"training on {SEEN}: {config.train.steps} steps of {size} pairs")
    if pretrain(config, progress=progress).interrupted:
        return replace(result, interrupted=True)
    _show(result, load(result.model), lead_of_trained(config), progress, log)
    return result


def _result(folder: Path, model: str) -> DemoResult:
    return DemoResult(
        folder=folder,
        model=model,
        index=folder / "pictures.db",
        report=folder / "report.html",
        example=folder / "pictures" / "photos" / read_table()[0].name,
    )


def _finished(config: PretrainConfig) -> bool:
    """Check whether an earlier call completed all steps of the run."""
    rows = read_metrics(config.run)
    written = (config.run / "model" / CONFIG_FILE).exists()
    return written and bool(rows) and rows[-1]["step"] >= config.train.steps


def _show(
    result: DemoResult,
    predictor: Predictor,
    lead: str,
    progress: ProgressMaker,
    log: Callable[[str], None],
) -> None:
    """Run all stages after training: scores, files, collection, searches, captions, report."""
    images = _write_images(result.folder, log)
    folder, uri = result.folder / "pictures" / "photos", str(result.index)
    photos = write_photos(folder)
    forget_other_model(result.index, predictor)
    log(f"indexing and captioning {len(photos)} photos in {uri}")
    of_photos = index_sources([FileSource([folder])], predictor, uri=uri, progress=progress)
    log(f"indexing {UNSEEN} in collection {DRAWINGS!r} of {uri}")
    of_drawings = index_sources(
        [FileSource([folder.parent / UNSEEN])],
        predictor,
        uri=uri,
        collection=DRAWINGS,
        captions=False,
        progress=progress,
    )
    with open_collection(predictor, uri, DRAWINGS) as collection:
        scores = _evaluate(result.folder, predictor, collection, images, progress, log)
        key = _report_key(predictor, lead, scores)
        reports = (of_photos.report, of_drawings.report)
        is_changed = any(it.added or it.updated for it in reports) or not result.report.exists()
        if not is_changed and _kept_key(result.folder) == key:
            return
        found = [
            *run_searches(SearchEngine(predictor, collection), images),
            *use_collection(predictor, collection, uri, images),
        ]
    with open_collection(predictor, uri) as collection:
        engine = SearchEngine(predictor, collection)
        walls = [QueryResult(text, "", None, engine.search(text, k=6)) for text in PHOTO_QUERIES]
        written = {Path(path).name: caption for _, path, caption, _ in collection.origins()}
    log("writing the report")
    # Without flags, whose names are not visible, and spread over the list.
    plain = [pair for pair in images if not pair[1].metadata["flag"]]
    shown = plain[:: max(1, len(plain) // CAPTIONED)][:CAPTIONED]
    captions = _caption(result.folder, predictor, shown, progress, log)
    write_report(
        result.report,
        lead=lead,
        metrics=read_metrics(result.folder),
        scores=scores,
        walls=[vars(wall) for wall in walls],
        found=[vars(one) for one in found],
        photos=[
            (path, (photo.shows, f"photo: {photo.author}"), written[photo.name])
            for path, photo in photos[:: max(1, len(photos) // CAPTIONED)][:CAPTIONED]
        ],
        captions=[
            (path, sample.captions, caption.removeprefix(CAPTION_PROMPT).strip())
            for (path, sample), caption in zip(shown, captions.of_drawings, strict=True)
        ],
        cross_attention_maps={
            name: base64.b64decode(png) for name, png in captions.attention_maps.items()
        },
    )
    write_atomic(result.folder / _KEY_FILE, key.encode())


_KEY_FILE = "report.key"


def _report_key(
    predictor: Predictor, lead: str, scores: Mapping[str, Mapping[str, int | float]]
) -> str:
    """Hash what a report depends on besides the collection: code, versions, model and scores."""
    made = record(config={}, seed=0, data_fingerprint="", extra={})
    parts = [made["code"], made["versions"], predictor.fingerprint, lead, scores]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _kept_key(folder: Path) -> str:
    path = folder / _KEY_FILE
    return path.read_text(encoding="utf-8") if path.exists() else ""


@dataclass(frozen=True)
class _Captions:
    """Captions of the report, as kept in the demo's folder."""

    of_drawings: list[str]
    attention_maps: dict[str, str]
    """True name of a drawing to the plot of its caption's attention maps, PNG in base64."""


def _caption(
    folder: Path,
    predictor: Predictor,
    shown: list[tuple[Path, Sample]],
    progress: ProgressMaker,
    log: Callable[[str], None],
) -> _Captions:
    """Caption drawings; results are cached."""
    drawings = [path for path, _ in shown]
    ids = [content_id(path.read_bytes()) for path in drawings]
    key = [predictor.fingerprint, CAPTION_PROMPT, EXPLAINED, *ids]
    path = folder / "captions.json"
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.pop("key") == key:
            return _Captions(**kept)
    log("captioning")
    captions = predictor.caption(drawings, prompt=CAPTION_PROMPT, progress=progress)
    made = _Captions(
        of_drawings=[caption.text for caption in captions],
        attention_maps={
            sample.captions[0]: base64.b64encode(
                draw_word_maps(
                    predictor.explain_caption(path, caption=caption, prompt=CAPTION_PROMPT)
                )
            ).decode()
            for (path, sample), caption in zip(shown[:EXPLAINED], captions, strict=False)
        },
    )
    write_json(path, {"key": key, **vars(made)})
    return made


def forget_other_model(uri: Path, predictor: Predictor) -> None:
    """Delete a collection that was filled by another model."""
    if not uri.exists():
        return
    try:
        with Collection.open(str(uri)) as collection:
            stale = collection.info.fingerprint != predictor.fingerprint
    except SearchError:
        # Created, repaired or reported when it is opened for indexing.
        return
    if stale:
        shutil.rmtree(uri)


def _config(folder: Path, recipe: str | Path, overrides: Sequence[str]) -> PretrainConfig:
    """Load the recipe, with data and run in the demo's folder."""
    config = load_config(PretrainConfig, Path(recipe), overrides=overrides)
    packed = shards(folder, SEEN).path
    sources = tuple(replace(source, path=packed) for source in config.data.sources)
    return replace(config, run=folder, data=replace(config.data, sources=sources))


def _pack(folder: Path, vendor: str, progress: ProgressMaker, log: Callable[[str], None]) -> None:
    """Pack a vendor's drawings as WebDataset shards; flags apart, for scores without them."""
    if folder.exists():
        return
    log(f"packing the drawings of {vendor} as shards in {folder}")
    samples = list(_counted(vendor, progress))
    with atomic_folder(folder) as unfinished:
        for name, flag in (("flags", True), ("others", False)):
            with ShardWriter(unfinished, name=name) as writer:
                for sample in samples:
                    if sample.metadata["flag"] == flag:
                        writer.write(sample)


def _counted(vendor: str, progress: ProgressMaker) -> Iterator[Sample]:
    with progress(f"drawing {vendor}", None) as bar:
        for sample in emoji_samples(vendor, size_px=RENDERED_PX):
            yield sample
            bar.advance()


def shards(folder: Path, vendor: str, name: str = "*") -> ShardsConfig:
    """Return the shards of a vendor: all, or only `flags` or `others`."""
    return ShardsConfig(path=str(folder / "shards" / vendor / f"{name}-*.tar"))


def _evaluate(
    folder: Path,
    predictor: Predictor,
    collection: Collection,
    images: list[tuple[Path, Sample]],
    progress: ProgressMaker,
    log: Callable[[str], None],
) -> dict[str, dict[str, int | float]]:
    """Score the model on the unseen vendor, with and without flags; results are cached.

    The vectors of the drawings and of their names are those of the collection.
    """
    configs: dict[str, TaskConfig] = {}
    for label, part in (("all", "*"), ("without flags", "others")):
        data, reference = shards(folder, UNSEEN, part), shards(folder, SEEN, part)
        for config in (
            TaskConfig(task="retrieval", data=data, captions="first"),
            TaskConfig(task="zero_shot", data=data, prompts="drawing"),
            TaskConfig(task="trimmed_pixel_floor", data=data, reference=reference),
        ):
            configs[f"{config.task} {label}"] = config
    configs["everyday queries"] = TaskConfig(task="keyword_search", data=shards(folder, UNSEEN))
    keys = [f"{predictor.fingerprint} {digest(it)}" for it in configs.values()]
    keys.append(repr(Ranking()))
    path = folder / "evaluation.json"
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.get("keys") == keys:
            return kept["scores"]
    log(f"evaluating on {UNSEEN}, which no training has read")
    scores: dict[str, dict[str, int | float]] = {}
    cached = caching(predictor)
    records = collection.get(content_id(sample.image) for _, sample in images)
    cached.add(
        images=((it.image, records[content_id(it.image)].vector) for _, it in images),
        texts=(
            (it.caption, it.text_vector) for it in records.values() if it.text_vector is not None
        ),
    )
    for name, config in configs.items():
        result = TASKS.get(config.task)(cached, config, progress=progress)
        metrics = {metric: round(value, 5) for metric, value in result.metrics.items()}
        scores[name] = {**metrics, "samples": result.samples}
    scores["coca search"] = score_search(SearchEngine(cached, collection), images)
    content = {"fingerprint": predictor.fingerprint, "keys": keys, "scores": scores}
    write_json(path, content)
    return scores


def _write_images(folder: Path, log: Callable[[str], None]) -> list[tuple[Path, Sample]]:
    """Write the unseen vendor's images as files with sidecars, like a user's own folder."""
    source = open_source(shards(folder, UNSEEN))
    samples = [source.read(row) for row in range(len(source))]
    target = folder / "pictures" / UNSEEN
    if not target.exists():
        log(f"writing the images of {UNSEEN} to {target}")
        with atomic_folder(target) as unfinished:
            for sample in samples:
                path = unfinished / _file_name(sample)
                path.write_bytes(sample.image)
                sidecar: dict[str, Any] = {"caption": sample.captions[0], **sample.metadata}
                path.with_suffix(".json").write_text(json.dumps(sidecar), encoding="utf-8")
    return [(target / _file_name(sample), sample) for sample in samples]


def _file_name(sample: Sample) -> str:
    return sample.key.split("/")[-1] + ".png"

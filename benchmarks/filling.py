"""Cost of indexing a collection against embedding alone: the same images, the same model.

    python benchmarks/filling.py --images photos --count 3000

`embed` prefetches and embeds the images as `coca index` does, and stores nothing. `plain` is
`Predictor.embed_images`, which reads a batch and then embeds it. `index` inserts into a new
collection of Milvus Lite, from opening it until it is on disk and closed. `again` is a second run
on the same collection, in which no image has changed.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from options import run
from sample_data import VAL, make_photos
from side_by_side import Rounds, emit, figure, in_turn, ratio, table, write_report

from coca.inference import loading
from coca.inference.predictor import Predictor
from coca.search.ingest.pipeline import READ_AHEAD_BATCHES, reading_threads
from coca.search.ingest.prefetch import Reader, embed_items
from coca.search.ingest.snapshot import CollectionSnapshot
from coca.search.ingest.sources import FileSource, find_files
from coca.workflows.collections.index import index_images

NAMES = {
    "embed": "embedding alone, reading ahead",
    "plain": "embedding alone, `embed_images`",
    "index": "`coca index`, new collection",
    "again": "`coca index`, second run",
}


def embed_ahead(model: Predictor, files: Sequence[Path]) -> None:
    reader = Reader(
        model,
        CollectionSnapshot([]),
        captions=False,
        threads=reading_threads(),
        ahead=READ_AHEAD_BATCHES * model.batch_size,
    )
    batch = {}
    for item in reader.read(FileSource(files)):
        batch[item.id] = item
        if len(batch) == model.batch_size:
            embed_items(model, batch)
            batch = {}
    embed_items(model, batch)


def index(model: Predictor, files: Sequence[Path], uri: str) -> None:
    done = index_images(files, model, uri=uri, captions=False).report
    assert done.good == len(files)


QUICK = {"images": VAL, "count": 128, "rounds": 1}
UNITS = {"seconds": "s", "cpu_s": "processor s"}


def contestant(arguments: argparse.Namespace) -> None:
    model = loading.load(arguments.model, device="cpu")
    files = find_files([arguments.images])[: arguments.count]
    # The first batch warms up: imports and the choice of kernels.
    model.embed_images(files[: model.batch_size])
    with tempfile.TemporaryDirectory() as folder:
        uri = str(Path(folder) / "images.db")
        works: dict[str, Callable[[], object]] = {
            "embed": lambda: embed_ahead(model, files),
            "plain": lambda: model.embed_images(files),
            "index": lambda: index(model, files, uri),
            "again": lambda: index(model, files, uri),
        }
        # The first use of the Milvus client costs a second in each process.
        index(model, files[: model.batch_size], str(Path(folder) / "warm.db"))
        if arguments.contestant == "again":
            index(model, files, uri)
        start, used = time.perf_counter(), time.process_time()
        works[arguments.contestant]()
        seconds, cpu = time.perf_counter() - start, time.process_time() - used
    emit({"seconds": seconds, "cpu_s": cpu, "images": len(files)})


def referee(arguments: argparse.Namespace) -> Rounds:
    shared = [f"--{name}={getattr(arguments, name)}" for name in ("images", "count", "model")]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.images == VAL or arguments.images.endswith(".tar"):
            make_photos(Path(folder) / "photos", arguments.images, arguments.count)
            shared.append(f"--images={folder}/photos")
        rounds = in_turn(
            {name: [f"--contestant={name}", *shared] for name in arguments.of.split(",")},
            rounds=arguments.rounds,
        )
    count = int(rounds["embed"][0]["images"])
    write_report(
        arguments,
        rounds,
        "filling",
        f"Indexing {count:,} images by {arguments.model}",
        results(rounds),
        packages=("torch", "pymilvus", "milvus-lite"),
    )
    return rounds


def results(rounds: Rounds) -> str:
    rows = [
        [
            NAMES[name],
            figure(own, "seconds").shown(1),
            figure(own, "cpu_s").shown(1),
            ratio(own, rounds["embed"], "seconds").shown(),
            ratio(own, rounds["embed"], "cpu_s").shown(),
        ]
        for name, own in rounds.items()
    ]
    return table(["", "seconds", "processor s", "ratio of seconds", "of processor s"], rows)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", default=VAL, help="folder of images, or shards (*.tar) to make photos of"
    )
    parser.add_argument("--count", type=int, default=3000, help="images (default 3000)")
    parser.add_argument("--model", default="everyday", help="model (default everyday)")
    parser.add_argument("--of", default=",".join(NAMES), help="contestants, `embed` among them")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)

"""Cost of indexing a collection against the model alone: the same images, the same model.

    python benchmarks/filling.py --images photos --count 3000
    python benchmarks/filling.py --images photos --count 1000 --captions

`embed` prefetches and embeds the images as `coca index` does, and stores nothing; with `--captions`
the model also writes their captions and embeds these. `plain` is
`TorchPredictor.embed_images`, which reads a batch and then embeds it. `index` inserts into a new
collection of a SQLite file, from opening it until it is on disk and closed. `again` is a second run
on the same collection, in which no image has changed.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from options import run
from sample_data import VAL, make_photos
from side_by_side import Rounds, emit, figure, in_turn, ratio, table, write_report

from coca.core.files.local_files import read_file
from coca.core.prefetch import map_ahead
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.search.ingest.sources import find_files
from coca.search.records import batches
from coca.workflows.collections.index import index_images

NAMES = {
    "embed": "the model alone, reading ahead",
    "plain": "the model alone, `embed_images`",
    "index": "`coca index`, new collection",
    "again": "`coca index`, second run",
}


def embed_ahead(model: TorchPredictor, files: Sequence[Path], captions: bool) -> None:
    ahead = 2 * model.batch_size
    items = map_ahead(_prepared(model), files, threads=os.cpu_count() or 1, ahead=ahead)
    for batch in batches(items, model.batch_size):
        if captions:
            model.embed_texts(model.embed_and_caption(batch)[1])
        else:
            model.embed_prepared(batch)


def _prepared(model: TorchPredictor) -> Callable[[Path], Any]:
    return lambda file: model.prepare_image(read_file(str(file)))


def embed(model: TorchPredictor, files: Sequence[Path], captions: bool) -> None:
    model.embed_images(files)
    if captions:
        model.embed_texts([caption.text for caption in model.caption(files)])


def index(model: TorchPredictor, files: Sequence[Path], captions: bool, uri: str) -> None:
    done = index_images(files, model, uri=uri, captions=captions).report
    assert done.good == len(files)


QUICK = {"images": VAL, "count": 128, "rounds": 1}
UNITS = {"seconds": "s", "cpu_s": "processor s"}


def contestant(arguments: argparse.Namespace) -> None:
    model = load_coca(arguments.model, device="cpu")
    files = [Path(file) for file in find_files([arguments.images])][: arguments.count]
    # The first batch warms up: imports and the choice of kernels.
    embed(model, files[: model.batch_size], arguments.captions)
    with tempfile.TemporaryDirectory() as folder:
        uri = str(Path(folder) / "images.db")
        works: dict[str, Callable[[], object]] = {
            "embed": lambda: embed_ahead(model, files, arguments.captions),
            "plain": lambda: embed(model, files, arguments.captions),
            "index": lambda: index(model, files, arguments.captions, uri),
            "again": lambda: index(model, files, arguments.captions, uri),
        }
        warm = str(Path(folder) / "warm.db")
        index(model, files[: model.batch_size], arguments.captions, warm)
        if arguments.contestant == "again":
            index(model, files, arguments.captions, uri)
        start, used = time.perf_counter(), time.process_time()
        works[arguments.contestant]()
        seconds, cpu = time.perf_counter() - start, time.process_time() - used
    emit({"seconds": seconds, "cpu_s": cpu, "images": len(files)})


def referee(arguments: argparse.Namespace) -> Rounds:
    shared = [f"--{name}={getattr(arguments, name)}" for name in ("images", "count", "model")]
    shared += ["--captions"] if arguments.captions else []
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
        "filling-captions" if arguments.captions else "filling",
        f"Indexing {count:,} images by {arguments.model}"
        + (", with captions" if arguments.captions else ""),
        results(rounds),
        packages=("torch", "numpy"),
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
    parser.add_argument("--captions", action="store_true", help="generate captions as well")
    parser.add_argument("--of", default=",".join(NAMES), help="contestants, `embed` among them")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)

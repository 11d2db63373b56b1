"""An exported model against torch: start, memory, images, texts and captions.

    python benchmarks/runtime.py
    python benchmarks/runtime.py --fp32 exported --int8 exported-int8

Contestants: `coca.load` with fp32 weights, and `open_exported` of the same model exported with
fp32 and with int8 weights. Each runs in its own process on one thread. Times are processor seconds,
which other work on the machine hardly changes. "start" is from the start of Python to the first
vector of a text. "memory" is the resident set after each kind of work: one text, all images, all
captions. Images are the photos of Flickr8k at 224 x 224 pixels, as WebP; captions are greedy.
Without `--fp32` and `--int8` the model is exported first, without the gates of `coca export`.
"""

import argparse
import glob
import json
import os
import tarfile
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from options import run
from sample_data import HELP, VAL, located
from side_by_side import (
    Rounds,
    Unavailable,
    emit,
    figure,
    in_turn,
    ratio,
    resident_mb,
    table,
    write_report,
)

CAPTIONED = 32
QUICK = {"count": 48, "rounds": 1}
UNITS = {
    "start_s": "processor s",
    "memory_*": "MB",
    "images": "1/processor s",
    "texts": "1/processor s",
    "captions": "1/processor s",
}
NAMES = {"torch": "torch, fp32", "fp32": "ONNX Runtime, fp32", "int8": "ONNX Runtime, int8"}
COLUMNS = {
    "start_s": "start, s",
    "memory_text": "memory after a text, MB",
    "memory_images": "after images, MB",
    "memory_captions": "after captions, MB",
    "images": "images/s",
    "texts": "texts/s",
    "captions": "captions/s",
}


def samples(pattern: str, count: int) -> tuple[list[bytes], list[str]]:
    """Return encoded images and all captions; without a package that takes memory."""
    images: list[bytes] = []
    texts: list[str] = []
    for path in sorted(glob.glob(pattern)):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is None or len(images) >= count or member.name.endswith(".txt"):
                    continue
                if member.name.endswith(".json"):
                    texts += json.load(file)["captions"]
                else:
                    images.append(file.read())
    return images, texts


def loaded(arguments: argparse.Namespace) -> Any:
    if arguments.contestant == "torch":
        import torch

        from coca.predict.torch_loading import load_coca

        torch.set_num_threads(1)
        return load_coca(arguments.model, device="cpu", batch_size=16)
    from coca.predict.onnx_predictor import open_exported

    folder = arguments.fp32 if arguments.contestant == "fp32" else arguments.int8
    return open_exported(folder, threads=1, batch_size=16)


def contestant(arguments: argparse.Namespace) -> None:
    # The images are decoded by one thread in both.
    os.cpu_count = lambda: 1
    predictor = loaded(arguments)
    predictor.embed_texts("a photo")
    figures = {"start_s": time.process_time(), "memory_text": resident_mb()}
    images, texts = samples(arguments.data, arguments.count)

    def rate(work: Any, items: Any, **options: Any) -> float:
        work(items[:16], **options)
        start = time.process_time()
        work(items, **options)
        return len(items) / (time.process_time() - start)

    figures["texts"] = rate(predictor.embed_texts, texts)
    figures["images"] = rate(predictor.embed_images, images)
    figures["memory_images"] = resident_mb()
    figures["captions"] = rate(predictor.caption, images[:CAPTIONED], num_beams=1)
    figures["memory_captions"] = resident_mb()
    emit(figures)


def exported(arguments: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Return the folders of both precisions; a missing one is written."""
    folders = {"fp32": arguments.fp32, "int8": arguments.int8}
    for precision, given in folders.items():
        if not given:
            from coca.predict.torch_loading import load_coca
            from coca.release.onnx.onnx_export import write_files

            folders[precision] = str(folder / precision)
            (folder / precision).mkdir()
            model = load_coca(arguments.model, device="cpu", prepack=False)
            write_files(
                folder / precision,
                model,
                "int8" if precision == "int8" else "fp32",
                name=arguments.model,
                images=samples(arguments.data, 64)[0],
            )
    return folders


def referee(arguments: argparse.Namespace) -> Rounds:
    for name in ("onnxruntime", "onnxscript"):
        if find_spec(name) is None:
            raise Unavailable(f"{name} is not installed: pip install 'coca-captioners[onnx]'")
    arguments.data = located(arguments.data)
    with tempfile.TemporaryDirectory() as temporary:
        folders = exported(arguments, Path(temporary))
        shared = [f"--{name}={getattr(arguments, name)}" for name in ("model", "data", "count")]
        shared += [f"--{name}={folder}" for name, folder in folders.items()]
        rounds = in_turn(
            {name: [*shared, f"--contestant={name}"] for name in NAMES}, rounds=arguments.rounds
        )
    rows = [
        [NAMES[name], *(figure(runs, key).shown(1) for key in COLUMNS)]
        for name, runs in rounds.items()
    ]
    compared = [
        [NAMES[name], *(ratio(runs, rounds["torch"], key).shown(2) for key in COLUMNS)]
        for name, runs in rounds.items()
        if name != "torch"
    ]
    columns = ["", *COLUMNS.values()]
    about = (
        f"Model `{arguments.model}`, {arguments.count:,} images; one thread. Rates are by "
        "processor second. Medians with the range of the rounds."
    )
    write_report(
        arguments,
        rounds,
        "runtime",
        "Exported models",
        about,
        table(columns, rows),
        "Quotients with torch, round by round:",
        table(columns, compared),
        packages=("torch", "onnxruntime"),
    )
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="everyday", help="name or folder of the model")
    parser.add_argument("--fp32", default="", help="exported folder; default: it is written")
    parser.add_argument("--int8", default="", help="exported folder; default: it is written")
    parser.add_argument("--data", default=VAL, help=HELP)
    parser.add_argument("--count", type=int, default=128, help="images")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)


if __name__ == "__main__":
    main()

"""Throughput of batches from WebDataset shards: the loader here against webdataset, images/s.

    python benchmarks/loader.py
    python benchmarks/loader.py --shards 'photos/train-*.tar' --side 224

Both loaders read the same tars, sample one caption per image, crop at random, flip half of the
images, resize bicubically, normalize, and tokenize with the same tokenizer. The peer is composed as
open_clip's pipeline: Pillow decodes and torchvision's transforms augment. Each has one worker
process; the other core only consumes the batches.
"""

import argparse
import glob
import itertools
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from options import run
from sample_data import HELP, TRAIN, located
from side_by_side import Rounds, emit, figure, in_turn, own_seconds, ratio, table, write_report

from coca.data.loading.loader import Loader, LoaderConfig
from coca.data.sources.factory import open_source
from coca.data.sources.source import SourceConfig
from coca.data.sources.tar.shards import ShardsConfig
from coca.processing.augment import Augment, AugmentConfig
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor
from coca.processing.tokenizer import Tokenizer

CONTEXT, VOCAB_SIZE = 32, 4000
MIN_SCALE, FLIP = 0.5, 0.5
NAMES = {"peer": "webdataset + torchvision", "here": "the loader here"}


def processor(source: SourceConfig, side: int) -> Processor:
    """Train a tokenizer on the first captions, the same in each process."""
    opened = open_source(source)
    captions = ["\n".join(opened.read(row).captions) for row in range(min(1000, len(opened)))]
    tokenizer = Tokenizer.train(captions, vocab_size=VOCAB_SIZE)
    return Processor(ImageTransform(ImageConfig(image_size=side)), tokenizer, CONTEXT)


def our_batches(source: SourceConfig, side: int, batch: int) -> Iterable[Any]:
    made = processor(source, side)
    augment = Augment(AugmentConfig(min_scale=MIN_SCALE, flip=FLIP), made.image_config)
    config = LoaderConfig(batch_size=batch, workers=1)
    return Loader([(source, open_source(source))], config, made, seed=0, augment=augment)


def peer_batches(source: SourceConfig, side: int, batch: int) -> Iterable[Any]:
    import webdataset
    from torchvision import transforms

    made = processor(source, side)
    change = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                side,
                scale=(MIN_SCALE, 1.0),
                ratio=(3 / 4, 4 / 3),
                interpolation=transforms.InterpolationMode.BICUBIC,
            ),
            transforms.RandomHorizontalFlip(FLIP),
            transforms.ToTensor(),
            transforms.Normalize(made.image_config.mean, made.image_config.std),
        ]
    )

    def collate(samples: list[tuple[torch.Tensor, str]]) -> tuple[torch.Tensor, torch.Tensor]:
        images, captions = zip(*samples, strict=True)
        return torch.stack(images), made.texts(captions)

    tars = sorted(tar for path in source.paths for tar in glob.glob(path))
    dataset = (
        webdataset.WebDataset(tars, shardshuffle=len(tars))
        .repeat()
        .shuffle(1000)
        .decode("pilrgb")
        .rename(image="jpg;png;webp", text="json")
        .map_dict(image=change, text=lambda record: random.choice(record["captions"]))
        .to_tuple("image", "text")
        .batched(batch, collation_fn=collate, partial=False)
    )
    return webdataset.WebLoader(dataset, batch_size=None, num_workers=1)


BATCHES: dict[str, Callable[[SourceConfig, int, int], Iterable[Any]]] = {
    "peer": peer_batches,
    "here": our_batches,
}


QUICK = {"batch": 64, "batches": 10, "rounds": 2}
UNITS = {"images_per_s": "images/s", "images_per_own_s": "images per processor s"}


def contestant(arguments: argparse.Namespace) -> None:
    source = ShardsConfig(path=arguments.data)
    batches = iter(BATCHES[arguments.contestant](source, arguments.side, arguments.batch))
    # The first batches warm up: the worker's start, and the batches that it has prefetched.
    for _ in itertools.islice(batches, 4):
        pass
    start, own_start = time.perf_counter(), own_seconds()
    for _ in itertools.islice(batches, arguments.batches):
        pass
    seconds, own = time.perf_counter() - start, own_seconds() - own_start
    images = arguments.batches * arguments.batch
    emit({"images_per_s": images / seconds, "images_per_own_s": images / own})


def referee(arguments: argparse.Namespace) -> Rounds:
    arguments.data = located(arguments.data)
    shared = [
        f"--{name}={getattr(arguments, name)}" for name in ("data", "side", "batch", "batches")
    ]
    rounds = in_turn(
        {name: [f"--contestant={name}", *shared] for name in BATCHES}, rounds=arguments.rounds
    )
    write_report(
        arguments,
        rounds,
        "loader",
        f"Loader, images of {arguments.side} px, batch {arguments.batch}, one worker each",
        results(rounds),
        packages=("torch", "torchvision", "webdataset", "pillow"),
    )
    return rounds


def results(rounds: Rounds) -> str:
    first = next(iter(rounds.values()))
    rows = [
        [
            NAMES[name],
            figure(own, "images_per_s").shown(0),
            ratio(own, first, "images_per_s").shown(),
            figure(own, "images_per_own_s").shown(0),
            ratio(own, first, "images_per_own_s").shown(),
        ]
        for name, own in rounds.items()
    ]
    columns = ["", "images/s", "ratio", "images a processor second", "ratio"]
    return table(columns, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=TRAIN, help=HELP)
    parser.add_argument("--side", type=int, default=128, help="of the result, pixels (default 128)")
    parser.add_argument("--batch", type=int, default=128, help="images (default 128)")
    parser.add_argument("--batches", type=int, default=60, help="timed batches (default 60)")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)

"""Near-duplicates planted in libraries: which are found, and which different images are reported.

    python benchmarks/duplicates.py --images 'photos/*.tar' products.zip exercises.zip

A library is the images of tars or a zip. For each change, `--planted` images get a changed copy.
Images that agree at 64 x 64 pixels were in the library twice, and are no false pair. The baseline
is a cosine of 0.9. The thresholds were chosen on the first library of docs/search.md.
"""

import argparse
import glob
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from options import run
from PIL import Image, ImageDraw, ImageFont, ImageOps
from sample_data import SCORED, located
from side_by_side import Figures, Rounds, table, write_report

import coca
from coca.metrics.intervals import wilson_interval
from coca.predict.predictor import Predictor
from coca.search.mining.duplicates import near_duplicates
from coca.search.mining.images import Compared
from coca.search.perceptual_hash import perceptual_hash, stacked

QUICK = {"size": 300, "planted": 10, "rounds": 1}
UNITS = {"*": "count"}


def cropped(image: Image.Image, part: float, random: np.random.Generator) -> Image.Image:
    width, height = int(part * image.width), int(part * image.height)
    x, y = (int(random.integers(most + 1)) for most in (image.width - width, image.height - height))
    return image.crop((x, y, x + width, y + height))


def labelled(image: Image.Image) -> Image.Image:
    image, place = image.copy(), (0.05 * image.width, 0.8 * image.height)
    text = "HAPPY BIRTHDAY", "white", ImageFont.load_default(size=image.height // 8)
    ImageDraw.Draw(image).text(place, *text, stroke_width=2, stroke_fill="black")
    return image


def barred(image: Image.Image, *, both: bool) -> Image.Image:
    """Put a caption on a bar below the image, or on bars above and below, as memes have them."""
    bar = image.height // 5
    size = image.width, image.height + (2 * bar if both else bar)
    whole = Image.new("RGB", size, "black" if both else "white")
    whole.paste(image, (0, bar if both else 0))
    font = ImageFont.load_default(size=max(8, bar // 3))
    for top in (0, size[1] - bar) if both else (size[1] - bar,):
        place = 0.05 * image.width, top + 0.3 * bar
        ImageDraw.Draw(whole).text(place, "WHEN YOU FORGET the milk", "grey", font)
    return whole


CHANGES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "half the size": lambda image, _: ImageOps.scale(image, 0.5),
    "quarter of the size": lambda image, _: ImageOps.scale(image, 0.25),
    "JPEG 15": lambda image, _: image,
    "grey": lambda image, _: image.convert("L"),
    "crop to 95 % of each side": lambda image, random: cropped(image, 0.95, random),
    "crop to 80 %": lambda image, random: cropped(image, 0.8, random),
    "text over": lambda image, _: labelled(image),
    "text on a bar below": lambda image, _: barred(image, both=False),
    "text on bars above and below": lambda image, _: barred(image, both=True),
    "mirrored": lambda image, _: ImageOps.mirror(image),
}
KINDS = {name: "same image" if n < 4 else "part or edit" for n, name in enumerate(CHANGES)}
FALSE = [f"false {kind}" for kind in ("same image", "part or edit", "cosine")]


def images_of(pattern: str) -> Iterator[Image.Image]:
    for path in sorted(glob.glob(located(pattern))):
        if path.endswith(".zip"):
            with zipfile.ZipFile(path) as file:
                files = {name: file.read(name) for name in file.namelist()}
        else:
            with tarfile.open(path) as tar:
                streams = {member.name: tar.extractfile(member) for member in tar}
                files = {name: stream.read() for name, stream in streams.items() if stream}
        for name in sorted(files):
            if name.endswith((".webp", ".png", ".jpg")):
                yield Image.open(io.BytesIO(files[name])).convert("RGB")


def measured(pattern: str, arguments: argparse.Namespace, model: Predictor) -> Figures:
    """Plant copies in a library, and count what is found."""
    random, count, images = np.random.default_rng(0), arguments.planted, list(images_of(pattern))
    images = [images[row] for row in random.permutation(len(images))[: arguments.size]]
    sources, kinds = list(range(len(images))), [""] * len(images)
    for number, (name, change) in enumerate(CHANGES.items()):
        for row in range(number * count, (number + 1) * count):
            stream, quality = io.BytesIO(), 15 if name == "JPEG 15" else 90
            change(images[row], random).save(stream, "JPEG", quality=quality)
            images, sources = [*images, Image.open(stream)], [*sources, row]
            kinds.append(name)
    vectors = model.embed_images([image.convert("RGB") for image in images])
    hashes, sizes = stacked([*map(perceptual_hash, images)]), [image.size for image in images]
    fine = [np.asarray(image.convert("L").resize((64, 64)), np.int16) for image in images]
    found = near_duplicates(Compared(vectors=vectors, hashes=hashes, sizes=np.array(sizes)))
    pairs = [(pair.first, pair.second, str(pair.kind)) for pair in found.pairs]
    pairs += [(a, b, "cosine") for a, b in np.argwhere(np.triu(vectors @ vectors.T, 1) >= 0.9)]
    figures: Figures = dict.fromkeys(
        (*CHANGES, *(f"{name}, cosine" for name in CHANGES), *FALSE), 0
    )
    for first, second, kind in pairs:
        if sources[first] != sources[second]:
            twice = np.abs(fine[sources[first]] - fine[sources[second]]).mean() < 1
            figures[f"false {kind}"] += not twice
        elif kind in ("cosine", KINDS[kinds[second]]):
            figures[kinds[second] + (", cosine" if kind == "cosine" else "")] += 1
    return figures | {"pairs": len(images) * (len(images) - 1) / 2}


def referee(arguments: argparse.Namespace) -> Rounds:
    model, count = coca.load(), arguments.planted
    own = {Path(name).name: [measured(name, arguments, model)] for name in arguments.images}
    rows = [
        [name, *(f"{one[name]:.0f} of {one['pairs']:,.0f}" for (one,) in own.values())]
        for name in FALSE
    ]
    for name in reversed(CHANGES):
        shares = [(one[name] / count, one[f"{name}, cosine"] / count) for (one,) in own.values()]
        spans = [wilson_interval(share, count) for share, _ in shares]
        shown = zip(shares, spans, strict=True)
        cells = [f"{a:.2f} ({low:.2f} to {high:.2f}); {b:.2f}" for (a, b), (low, high) in shown]
        rows.insert(0, [name, *cells])
    body = table(["change: found; by a cosine of 0.9", *own], rows)
    title = "Planted near-duplicates"
    write_report(arguments, Rounds(own), "duplicates", title, body, packages=["numpy"])
    return Rounds(own)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", nargs="+", default=[SCORED], help="tars or zips of a library")
    options.add_argument("--size", type=int, default=2_000, help="images a library (default 2,000)")
    options.add_argument("--planted", type=int, default=50, help="copies a change (default 50)")
    run(options, referee=referee, quick=QUICK, units=UNITS, rounds=1)

"""True finds at a rate of false alarms: cosine, mutual information, and both, calibrated.

    python benchmarks/calibration.py --model everyday
    python benchmarks/calibration.py --name flickr8k --data "flickr8k/val-*.tar"

A captioned source is split in two by a hash of its keys. The images of one half are the collection;
a caption of each image of both halves is a query. So about half of the queries have no answer. A
true find is a query whose own image is among the first 32 hits and above the threshold. A false
alarm is a query without an answer that has any hit above it. The calibration is fitted on another
caption of the images in the collection. Curves are written as CSV and SVG.
"""

import argparse
import csv
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from options import run
from PIL import Image
from sample_data import HELP, VAL, located
from side_by_side import Figures, Rounds, emit, in_turn, own_seconds, table, write_report

import coca
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from coca.inference.predictor import Predictor
from coca.model.generation.scoring import score_captions
from coca.search.query.match import SCORED_HITS, Measures, fit, mutual_information

SAMPLES, RATE = 16, 0.05
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
GRAY = Image.new("RGB", (224, 224), (128, 128, 128))

QUICK = {"count": 200, "rounds": 1}
UNITS = {
    f"* {RATE}": f"true finds at {RATE} false alarms",
    "calibrated *": "fraction",
    "seconds": "processor s a query",
}
NAMES = {
    "cosine": "cosine",
    "z-score": "cosine, z-score of the query",
    "gray": "mutual information, null: gray image",
    "mean tokens": "mutual information, null: mean image tokens",
    "samples": f"mutual information, null: mean over {SAMPLES} images",
    "cosine + gray": "both, null: gray image",
    "cosine + samples": f"both, null: mean over {SAMPLES} images",
}


def split(keys: list[str]) -> np.ndarray:
    """Return which samples are in the collection, by a hash of their keys."""
    return np.array([hashlib.sha256(key.encode()).digest()[0] % 2 == 0 for key in keys])


class Asked:
    """Texts with the measures of their first hits."""

    def __init__(
        self,
        predictor: Predictor,
        images: list[bytes],
        vectors: np.ndarray,
        texts: list[str],
        own: np.ndarray,
    ) -> None:
        self.cosine = predictor.embed_texts(texts) @ vectors.T
        self.order = np.argsort(-self.cosine, axis=1, kind="stable")[:, : SCORED_HITS + 1]
        sampled = np.random.default_rng(0).permutation(len(images))[:SAMPLES]
        only = np.zeros(self.cosine.shape, bool)
        np.put_along_axis(only, self.order, True, axis=1)
        only[:, sampled] = True
        only[np.flatnonzero(own >= 0), own[own >= 0]] = True
        start = own_seconds()
        log_p = predictor.score(images, texts, only=only.T).T
        self.seconds = (own_seconds() - start) / len(texts)
        rows = np.arange(len(images))[:, np.newaxis] == sampled
        pixels = predictor.processor.images([images[row] for row in sampled])
        with torch.inference_mode():
            seen = predictor.model.image_tokens(pixels.to(predictor.model.log_scale))
            tokens = predictor.processor.texts(texts).to(seen.device)
            mean = score_captions(predictor.model, seen.mean(dim=0, keepdim=True), tokens)
        self.pmi = {
            "gray": log_p - predictor.score([GRAY], texts).T,
            "mean tokens": log_p - mean.cpu().numpy().T,
            "samples": np.stack([mutual_information(one, one[sampled], rows) for one in log_p]),
        }

    def scores(self) -> dict[str, np.ndarray]:
        spread = self.cosine.std(axis=1, keepdims=True)
        centered = self.cosine - self.cosine.mean(axis=1, keepdims=True)
        return {"cosine": self.cosine, "z-score": centered / spread, **self.pmi}

    def measures(self, null: str, columns: np.ndarray) -> Measures:
        """Measures of the hits in these columns; minus 1 is not a hit."""
        rows = np.arange(len(columns))[:, np.newaxis]
        there = columns >= 0
        return Measures(
            np.where(there, self.cosine[rows, columns], np.nan),
            np.where(there, self.pmi[null][rows, columns], np.nan),
        )


def finds(scores: np.ndarray, order: np.ndarray, own: np.ndarray) -> Callable[[float], float]:
    """Return the function from the rate of false alarms to that of true finds."""
    best = np.take_along_axis(scores, order, axis=1)
    alarms = np.sort(best[own < 0].max(axis=1))
    hit = np.where(order == own[:, np.newaxis], best, -np.inf).max(axis=1)[own >= 0]
    return lambda rate: float(np.mean(hit > alarms[int(np.ceil(len(alarms) * (1 - rate))) - 1]))


def contestant(arguments: argparse.Namespace) -> None:
    predictor = coca.load(arguments.model, device="cpu")
    source = open_source(ShardsConfig(path=arguments.data))
    samples = [source.read(row) for row in range(len(source))]
    samples = sorted(samples, key=lambda it: hashlib.sha256(it.key.encode()).digest()[1:])
    samples = samples[: arguments.count or None]
    inside = split([sample.key for sample in samples])
    images = [sample.image for sample, there in zip(samples, inside, strict=True) if there]
    vectors = predictor.embed_images(images)
    own = np.where(inside, np.cumsum(inside) - 1, -1)
    asked = Asked(predictor, images, vectors, [sample.captions[0] for sample in samples], own)
    own_captions = [
        sample.captions[-1] for sample, there in zip(samples, inside, strict=True) if there
    ]
    known = Asked(predictor, images, vectors, own_captions, np.arange(len(images)))
    itself = np.arange(len(images))[:, np.newaxis]
    left_out = np.where(known.order == itself, -1, known.order)
    scores, order = asked.scores(), asked.order[:, :SCORED_HITS]
    figures: Figures = {"inside": len(images), "asked": len(samples), "seconds": asked.seconds}
    for null in ("gray", "samples"):
        made = fit(
            known.measures(null, itself),
            {"left out": known.measures(null, left_out)},
            shown=(known.order[:, :SCORED_HITS] == itself).any(axis=1),
            false_alarms=RATE,
            fingerprint=predictor.fingerprint,
            samples=(),
            records=len(images),
        )
        logits = made.cosine_weight * asked.cosine + made.pmi_weight * asked.pmi[null] + made.bias
        scores[f"cosine + {null}"] = logits
        best = np.take_along_axis(made.probability(asked.cosine, asked.pmi[null]), order, axis=1)
        hit = np.where(order == own[:, np.newaxis], best, 0.0).max(axis=1)
        figures[f"calibrated {null} alarms"] = float(
            np.mean(best[own < 0].max(axis=1) > made.threshold)
        )
        figures[f"calibrated {null} finds"] = float(np.mean(hit[own >= 0] > made.threshold))
    for name, some in scores.items():
        curve = finds(some, order, own)
        figures |= {f"{name} {rate}": curve(rate) for rate in RATES}
    emit(figures)


def referee(arguments: argparse.Namespace) -> Rounds:
    arguments.data = located(arguments.data)
    shared = [f"--{name}={getattr(arguments, name)}" for name in ("model", "data", "count")]
    rounds = in_turn({arguments.name: [*shared, "--contestant=queries"]}, rounds=1)
    own = rounds[arguments.name][0]
    base = own[f"cosine {RATE}"]
    rows = [
        [
            shown,
            *(f"{own[f'{name} {rate}']:.3f}" for rate in RATES),
            f"{own[f'{name} {RATE}'] / base:.2f}" if base else "",
        ]
        for name, shown in NAMES.items()
    ]
    path = write_report(
        arguments,
        rounds,
        f"calibration-{arguments.name}",
        f"True finds by the rate of false alarms, {arguments.name}",
        table(["threshold on", *(f"{rate:.0%}" for rate in RATES), f"times, {RATE:.0%}"], rows),
        f"{own['asked']:,.0f} queries, of which {own['inside']:,.0f} have an answer. Calibrated on "
        f"other captions of the collection for {RATE:.0%} false alarms: "
        f"{own['calibrated samples alarms']:.1%} false alarms, "
        f"{own['calibrated samples finds']:.1%} true finds. "
        f"Scoring: {own['seconds']:.3f} s of processor time a query, all images encoded once.",
        packages=["torch"],
    )
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["false_alarms", *NAMES])
        writer.writerows([rate, *(own[f"{name} {rate}"] for name in NAMES)] for rate in RATES)
    draw(path.with_suffix(".svg"), own)
    return rounds


def draw(path: Path, own: Figures) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(6, 4), layout="constrained")
    panel = drawing.subplots()
    for name, shown in NAMES.items():
        panel.plot(RATES, [own[f"{name} {rate}"] for rate in RATES], marker="o", label=shown)
    panel.set(xlabel="false alarms", ylabel="true finds", xscale="log")
    panel.grid(alpha=0.3, which="both")
    panel.legend(fontsize="small")
    # Text stays text: a tenth of the size.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "calibration"}):
        drawing.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    options.add_argument("--data", default=VAL, help=HELP)
    options.add_argument("--name", default="drawings", help="name of the data (default drawings)")
    options.add_argument("--count", type=int, default=0, help="samples; 0: all (default)")
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS, rounds=1)

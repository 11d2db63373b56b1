"""Ranking rules for typed queries: cosines of images and captions, and words, in one score.

    python benchmarks/ranking.py --photos FOLDER

Images, captions and queries are embedded once, and kept as .npz files in `--cache`. A rule is a
function of three matrices of queries and records: the cosine of the image, the cosine of the
caption, and BM25 of the caption's words. Weights are chosen on the 100 everyday queries and on
photos of Flickr8k's validation split, whose queries are other captions of the same photos. All
other sets are reported: their queries are in ranking_queries.yaml, and were written before any
result. A set with `half` has no caption for a random half of its records. Without `--photos` only
the two sets of drawings are measured.

Dimensions: Q queries, N records.
"""

import argparse
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from drawing_queries import match, read_answers
from options import run
from PIL import Image
from sample_data import SCORED, located
from side_by_side import Figures, Rounds, table, write_report

import coca
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from coca.search.query.query_terms import query_forms
from coca.search.ranking import fused_scores
from coca.search.search_options import Ranking
from coca.search.words import terms_of
from coca.tasks.baselines import bm25_matrix

ANSWERS = yaml.safe_load(Path(__file__).with_name("ranking_queries.yaml").read_text("utf-8"))
DEPTHS, DRAWS, SEEDS = (1, 5), 2_000, 3
"""Depths of success, draws of the paired bootstrap, and random halves of a set."""
FORMS: dict[str, Callable[[str], Sequence[str]]] = {
    "as typed": lambda query: [query],
    "with content words": query_forms,
}
"""Texts whose mean vector is that of a query."""
CHOSEN = "with content words"
_DEFAULT = Ranking()

QUICK = {"rounds": 1}
UNITS = {"*": "fraction"}


@dataclass(frozen=True)
class Texts:
    """Images, captions and queries of a set, before they are embedded."""

    images: Sequence[Any]
    captions: Sequence[str]
    queries: Sequence[str]
    relevant: np.ndarray
    """Whether an image is correct for a query, Q N."""


def drawings(arguments: argparse.Namespace, answers: Mapping[str, Sequence[str]]) -> Texts:
    """Drawings of OpenMoji with their names."""
    samples = list(_samples(located(arguments.drawings)))
    queries, relevant = match(answers, samples)
    images = [sample.image for sample in samples]
    return Texts(images, [sample.captions[0] for sample in samples], queries, relevant)


def fresh(arguments: argparse.Namespace) -> Texts:
    """The same drawings, with other queries."""
    codes = {str(query): str(some).split() for query, some in ANSWERS["drawings"].items()}
    return drawings(arguments, codes)


def flickr(arguments: argparse.Namespace) -> Texts:
    """Photos with their first caption; a query is the second or third one."""
    samples = list(_samples(f"{arguments.photos}/flickr8k_224/val-*.tar"))
    captions = [sample.captions for sample in samples]
    queries = [some[row] for row in (1, 2) for some in captions]
    own = np.tile(np.eye(len(samples), dtype=bool), (2, 1))
    return Texts([sample.image for sample in samples], [some[0] for some in captions], queries, own)


def rooms(arguments: argparse.Namespace) -> Texts:
    """Indoor photos; a caption is three of the answers to questions about the photo."""
    rows = list(_rows(arguments, "daquar_train.zip"))
    answers: dict[str, list[str]] = {}
    for row in rows:
        answers.setdefault(row["image"], []).extend(map(str.strip, row["answer"].split(",")))
    captions = [
        ", ".join([one.replace("_", " ") for one in dict.fromkeys(some) if not one.isdigit()][:3])
        for some in answers.values()
    ]
    relevant = [
        [not set(some).isdisjoint(right) for some in answers.values()]
        for right in ANSWERS["rooms"].values()
    ]
    images = _images(arguments, "daquar_train.zip", list(answers))
    return Texts(images, captions, list(ANSWERS["rooms"]), np.array(relevant))


def exercises(arguments: argparse.Namespace) -> Texts:
    """Photos of gym exercises with their names."""
    rows = list(_rows(arguments, "exercises_128.zip"))
    names = [row["name"] for row in rows]
    relevant = [
        [any(part in name.lower() for part in right) for name in names]
        for right in ANSWERS["exercises"].values()
    ]
    images = _images(arguments, "exercises_128.zip", [row["images"][0] for row in rows])
    return Texts(images, names, list(ANSWERS["exercises"]), np.array(relevant))


def classes(arguments: argparse.Namespace) -> Texts:
    """Photos without captions; a query is the name of a class."""
    rows = list(_rows(arguments, "photos_cc_by_600.zip"))
    queries = list(dict.fromkeys(row["class_names"][0] for row in rows))
    relevant = np.array([[query in row["class_names"] for row in rows] for query in queries])
    images = _images(arguments, "photos_cc_by_600.zip", [row["image"] for row in rows])
    return Texts(images, [""] * len(rows), queries, relevant)


def words(arguments: argparse.Namespace) -> Texts:
    """Photos without captions; a query is a noun, which two of the five captions have or none."""
    samples = list(_samples(f"{arguments.photos}/flickr8k_224/val-*.tar"))
    written = [[set(terms_of(caption)) for caption in sample.captions] for sample in samples]
    nouns = ANSWERS["nouns"].split()
    counts = np.array(
        [
            [sum(term in some for some in captions) for captions in written]
            for (term,) in map(terms_of, nouns)
        ]
    )
    # A noun that few captions have is neither there nor absent.
    clear = ((counts > 1).sum(axis=1) >= 5) | (counts == 0).all(axis=1)
    queries = [noun for noun, some in zip(nouns, clear, strict=True) if some]
    images = [sample.image for sample in samples]
    return Texts(images, [""] * len(images), queries, counts[clear] > 0)


SETS: dict[str, Callable[[argparse.Namespace], Texts]] = {
    "everyday": lambda arguments: drawings(arguments, read_answers()),
    "flickr": flickr,
    "fresh": fresh,
    "rooms": rooms,
    "exercises": exercises,
}
UNCAPTIONED = {"classes": classes, "words": words}
TUNED = ("everyday", "flickr")
DRAWN = ("everyday", "fresh")


def sets_of(arguments: argparse.Namespace) -> list[str]:
    """Return the captioned sets whose images are there."""
    return [name for name in SETS if arguments.photos or name in DRAWN]


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options of the images."""
    parser.add_argument("--drawings", default=SCORED, help="shards of OpenMoji; default: from pip")
    described = "folder of flickr8k_224, daquar_train.zip, exercises_128.zip, photos_cc_by_600.zip"
    parser.add_argument("--photos", default="", help=described)


def _samples(pattern: str) -> Iterator[Any]:
    source = open_source(ShardsConfig(path=pattern))
    return (source.read(row) for row in range(len(source)))


def _rows(arguments: argparse.Namespace, name: str) -> Iterator[dict[str, Any]]:
    with zipfile.ZipFile(Path(arguments.photos) / name) as file:
        return map(json.loads, file.read("meta.jsonl").splitlines())


def _images(arguments: argparse.Namespace, name: str, members: Sequence[str]) -> list[Image.Image]:
    with zipfile.ZipFile(Path(arguments.photos) / name) as file:
        return [Image.open(io.BytesIO(file.read(one))).convert("RGB") for one in members]


def embedded(name: str, arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Embed a set, or read its vectors from the cache."""
    path = Path(arguments.cache) / f"{name}.npz"
    if path.is_file():
        with np.load(path) as file:
            return dict(file)
    texts, predictor = (SETS | UNCAPTIONED)[name](arguments), loaded(arguments.model)
    # Two sets have the same drawings.
    drawn = embedded("everyday", arguments)["images"] if name == "fresh" else None
    found = {
        "images": predictor.embed_images(texts.images) if drawn is None else drawn,
        "captions": np.array(texts.captions),
        "caption vectors": predictor.embed_texts(texts.captions),
        "queries": np.array(texts.queries),
        "relevant": texts.relevant,
    }
    for form, forms_of in FORMS.items():
        forms = [forms_of(query) for query in texts.queries]
        vectors = predictor.embed_texts([text for some in forms for text in some])
        parts = np.split(vectors, np.cumsum([len(some) for some in forms])[:-1])
        means = np.stack([part.mean(axis=0) for part in parts])
        found[form] = means / np.linalg.norm(means, axis=1, keepdims=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found)
    return found


@cache
def loaded(model: str) -> Any:
    return coca.load(model, device="cpu")


@dataclass(frozen=True)
class Parts:
    """What a rule reads. All but `given` are Q N."""

    image: np.ndarray
    """Cosine of query and image."""
    caption: np.ndarray
    """Cosine of query and caption."""
    words: np.ndarray
    """BM25 of the query's words in the caption."""
    given: np.ndarray
    """Whether a record has a caption that counts, N."""


def parts_of(data: Mapping[str, np.ndarray], form: str, captioned: float, seed: int) -> Parts:
    """Compute the matrices of a set, of which a fraction of the records has a caption."""
    given = np.random.default_rng(seed).random(len(data["images"])) < captioned
    query, captions = data[form], data["caption vectors"]
    counted = np.where(given, data["captions"], "").tolist()
    return Parts(
        image=query @ data["images"].T,
        caption=query @ captions.T,
        words=bm25_matrix(counted, data["queries"].tolist()),
        given=given,
    )


def rule(parts: Parts, ranking: Ranking = _DEFAULT) -> np.ndarray:
    """Compute the score of queries and records, Q N."""
    caption = np.where(parts.given, parts.caption, np.nan)
    return np.stack(
        [
            fused_scores(image, of_caption, np.pad(words[:, np.newaxis], ((0, 0), (0, 1))), ranking)
            for image, of_caption, words in zip(parts.image, caption, parts.words, strict=True)
        ]
    )


def ranked(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Return the rank of the first correct record of each query, from 1; 0 if it is below 10."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    right = np.take_along_axis(relevant, best, axis=1)
    return np.where(right.any(axis=1), right.argmax(axis=1) + 1, 0)


def reciprocal(ranks: np.ndarray) -> np.ndarray:
    return np.where(ranks > 0, 1 / np.maximum(ranks, 1), 0.0)


def gain(ranks: np.ndarray, others: np.ndarray) -> str:
    """Format the difference of MRR@10 of the same queries, with its 95 % interval."""
    gains = reciprocal(ranks) - reciprocal(others)
    drawn = np.random.default_rng(0).integers(0, len(gains), (DRAWS, len(gains)))
    low, high = np.quantile(gains[drawn].mean(axis=1), [0.025, 0.975])
    return f"{gains.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def min_max(parts: Parts, depth: int = 64) -> np.ndarray:
    """Compute sums of scores that are min-max-normalized among the first hits of each ranking.

    An image without a caption has 0.6 times its own score instead of those of its caption.
    """
    caption = np.where(parts.given, parts.caption, -np.inf)
    words = np.where(parts.words > 0, parts.words, -np.inf)
    image, caption, words = (_normalized(some, depth) for some in (parts.image, caption, words))
    whole = 0.25 * image + 0.375 * caption + 0.375 * words
    return np.where(parts.given, whole, (0.25 + 0.6 * 0.75) * image)


def _normalized(scores: np.ndarray, depth: int) -> np.ndarray:
    best = np.sort(scores, axis=1)[:, -min(depth, scores.shape[1]) :]
    low = np.where(np.isfinite(best), best, np.inf).min(axis=1, keepdims=True)
    span = best[:, -1:] - low
    inside = np.isfinite(scores) & (scores >= low)
    return np.where(inside, np.where(span > 0, (scores - low) / np.maximum(span, 1e-9), 1.0), 0.0)


RULES: dict[str, Callable[[Parts], np.ndarray]] = {
    "images": lambda parts: parts.image,
    "vectors of captions": lambda parts: np.where(parts.given, parts.caption, -1.0),
    "words": lambda parts: parts.words,
    "min-max": min_max,
    "rule": rule,
}


def referee(arguments: argparse.Namespace) -> Rounds:
    figures: Figures = {}
    rows, forms = [], []
    for name in sets_of(arguments):
        data = embedded(name, arguments)
        for captioned in (1.0, 0.5):
            seeds = range(SEEDS if captioned < 1 else 1)
            found = {
                form: _ranks(
                    RULES if form == CHOSEN else {"rule": rule}, data, form, captioned, seeds
                )
                for form in FORMS
            }
            chosen = found[CHOSEN]
            title = f"{name}{', half' if captioned < 1 else ''}"
            title += ", to choose" if name in TUNED else ""
            new, old, typed = chosen["rule"], chosen["min-max"], found["as typed"]["rule"]
            rows.append([title, *map(_shown, chosen.values()), gain(new, old)])
            forms.append([title, _shown(typed), _shown(new), gain(new, typed)])
            figures |= {
                f"{title} {method} {depth}": float(((ranks > 0) & (ranks <= depth)).mean())
                for method, ranks in chosen.items()
                for depth in DEPTHS
            }
    rounds = Rounds({"rule": [figures]})
    write_report(
        arguments,
        rounds,
        "ranking",
        "Ranking rules for typed queries",
        "Success@1 / success@5 / MRR@10. The last column is the difference of MRR@10 between the "
        "rule and `min-max`, with its 95 % interval (paired bootstrap over queries).",
        table(["set", *RULES, "difference"], rows),
        "The rule with the vector of the query as typed, and with its mean with the vector of its "
        "content words.",
        table(["set", *FORMS, "difference"], forms),
        packages=["torch", "numpy"],
    )
    return rounds


def _ranks(
    rules: Mapping[str, Callable[[Parts], np.ndarray]],
    data: Mapping[str, np.ndarray],
    form: str,
    captioned: float,
    seeds: Sequence[int],
) -> dict[str, np.ndarray]:
    """Rank by each rule; the ranks of all seeds follow each other."""
    some = [parts_of(data, form, captioned, seed) for seed in seeds]
    return {
        method: np.concatenate([ranked(score(parts), data["relevant"]) for parts in some])
        for method, score in rules.items()
    }


def _shown(ranks: np.ndarray) -> str:
    scores = [((ranks > 0) & (ranks <= depth)).mean() for depth in DEPTHS]
    return " / ".join(f"{score:.3f}" for score in (*scores, reciprocal(ranks).mean()))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    add_data(options)
    options.add_argument("--cache", default="runs/bench/ranking", help="folder of the vectors")
    run(options, referee=referee, quick=QUICK, units=UNITS, rounds=1)

"""Captions that the model is certain of: how many are right, and how many are left.

    python benchmarks/certainty.py --photos FOLDER

A caption of the 600 photos is right if its first noun is above the class of the photo, or names
people and people are on the photo (`photos_with_people.txt`, which a person wrote by looking at all
of them). A caption of Flickr8k's validation split, or of COCO's photos, is right if its first noun
is a word of the five sentences, above one or below one; there, `details` are the captions all of
whose nouns are right. A caption of a drawing is right if it has a word of the drawing's name or
group.

The constants of `coca.predict.certainty` are fitted to the first half of photos, sentences (weight
.4 for people and .2 for things, as nearly all these photos show people) and drawings; `fitted` are
the constants that come out. The second halves chose nothing but the least certainty, and COCO
nothing. The baselines show the same number of captions: those with the highest mean
log-probability, and with the highest cosine of image and caption; and all of them.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from nouns import with_interval
from options import run
from ranking import _images, _rows, _samples, add_data, loaded
from sample_data import located
from side_by_side import Figures, Rounds, Unavailable, table, write_report

from coca.core.config.execution import CERTAIN
from coca.model.generation.generation_config import GenerationConfig
from coca.predict.certainty import OFFSETS, PEOPLE, WEIGHTS, CaptionJudge, Evidence
from coca.predict.inputs import Caption
from coca.predict.predictor import Predictor

PEOPLE_PHOTOS = Path(__file__).with_name("photos_with_people.txt")
DRAWINGS, STEPS = 500, 50
SHARES = {
    "things": {"photos": 1.0, "sentences": 0.2},
    "people": {"photos": 1.0, "sentences": 0.4},
    "others": {"photos": 1.0, "drawings": 0.5},
}
"""Weights of the sets in the fit of each kind."""
EMPTY = frozenset(("a", "an", "and", "drawing", "in", "of", "the", "with"))

QUICK = {"rounds": 1}
UNITS = {"*": "fraction"}


@dataclass(frozen=True)
class Judged:
    """A caption, what the model knows of its image, and whether it is right."""

    caption: Caption
    evidence: Evidence
    right: bool
    all_right: bool
    """Whether all nouns are right; as `right` for drawings."""
    noun_right: bool
    """Whether the sure noun is right; False without."""


def truths(arguments: argparse.Namespace, judge: CaptionJudge) -> Iterator[tuple[str, Any, Any]]:
    """Yield each set: its name, its images, and what decides whether texts about one are right."""
    people = frozenset(PEOPLE_PHOTOS.read_text(encoding="utf-8").split())
    rows = list(_rows(arguments, "photos_cc_by_600.zip"))
    files = [row["image"] for row in rows]
    classes = [
        lambda noun, row=row: (
            row["image"] in people
            if judge.is_of_people(noun)
            else row["imagenet_class"] in judge.classes_of(noun)
        )
        for row in rows
    ]
    yield "photos", _images(arguments, "photos_cc_by_600.zip", files), classes
    samples = list(_samples(f"{arguments.photos}/flickr8k_224/val-*.tar"))
    described = [lambda noun, it=it: is_described(judge, noun, it.captions) for it in samples]
    yield "sentences", [sample.image for sample in samples], described
    rows = list(_rows(arguments, "coco_mini_144.zip"))
    described = [lambda noun, row=row: is_described(judge, noun, row["captions"]) for row in rows]
    yield "COCO", _images(arguments, "coco_mini_144.zip", [row["image"] for row in rows]), described
    samples = list(_samples(located(arguments.drawings)))
    chosen = np.random.default_rng(0).choice(len(samples), DRAWINGS, replace=False)
    drawings = [samples[row] for row in chosen]
    yield "drawings", [it.image for it in drawings], [names_of(it) for it in drawings]


def is_described(judge: CaptionJudge, noun: str, sentences: Sequence[str]) -> bool:
    """Return whether sentences of people have a noun, one above it or one below."""
    theirs = [it for sentence in sentences for it in judge.nouns_in(sentence)]
    if judge.is_of_people(noun):
        return any(map(judge.is_of_people, theirs))
    text, own = " ".join(sentences).lower(), judge.classes_of(noun)
    if re.search(rf"\b{re.escape(noun.removesuffix('s'))}s?\b", text):
        return True
    below = [judge.classes_of(it) for it in theirs if not judge.is_of_people(it)]
    return any(own <= other or other <= own for other in below)


def names_of(sample: Any) -> frozenset[str]:
    """Return the words of a drawing's names and groups."""
    groups = (str(sample.metadata.get(key, "")) for key in ("group", "subgroup"))
    return _words(" ".join([*sample.captions, *groups]))


def _words(text: str) -> frozenset[str]:
    return frozenset(it.rstrip("s") for it in re.findall(r"\w+", text.lower())) - EMPTY


def judged(
    model: Predictor, judge: CaptionJudge, images: Any, truth: Sequence[Any]
) -> list[Judged]:
    """Caption images as `Predictor.caption` does, and look whether the captions are right."""
    found, begun = list[Judged](), model._encode_prompt("")
    people = model.embed_texts([PEOPLE])[0]
    for start in range(0, len(images), model.batch_size):
        squares = [model.prepare_image(it) for it in images[start : start + model.batch_size]]
        vectors, seen = model._encode_images_and_tokens(model._from_squares(np.stack(squares)))
        assert seen.probabilities is not None
        captions = model._write(seen, [begun] * len(squares), GenerationConfig(), None)
        texts = model.embed_texts([caption.text for caption in captions])
        for row, caption in enumerate(captions):
            evidence = judge.evidence(
                caption,
                seen.probabilities[row],
                cosine=float(vectors[row] @ texts[row]),
                people=float(vectors[row] @ people),
            )
            found.append(looked_at(judge, caption, evidence, truth[start + row]))
    return found


def looked_at(judge: CaptionJudge, caption: Caption, evidence: Evidence, truth: Any) -> Judged:
    """Compare the first noun of a caption, and its sure noun, with what is known of the image."""
    if isinstance(truth, frozenset):
        right, noun_right = (
            not truth.isdisjoint(_words(it)) for it in (caption.text, caption.noun)
        )
        return Judged(caption, evidence, right, right, noun_right)
    nouns = [truth(noun) for noun in judge.nouns_in(caption.text)]
    noun_right = any(map(truth, judge.nouns_in(caption.noun)))
    return Judged(caption, evidence, any(nouns[:1]), bool(nouns) and all(nouns), noun_right)


def fitted(rows: Sequence[tuple[str, Judged]], kind: str) -> Float[np.ndarray, " 5"]:
    """Fit offset and weights of a kind of captions, by Newton's method with little decay."""
    own = [(name, it) for name, it in rows if it.evidence.kind == kind and name in SHARES[kind]]
    used = np.array([1.0, *(weight != 0 for weight in WEIGHTS[kind][1:])])
    inputs = np.array([[1.0, *it.evidence[1:]] for _, it in own]) * used
    right = np.array([it.right for _, it in own], float)
    share = np.array([SHARES[kind][name] for name, _ in own])
    values = np.zeros(len(used))
    for _ in range(STEPS):
        likely = 1 / (1 + np.exp(-inputs @ values))
        slope = inputs.T @ (share * (likely - right)) + 1e-3 * values
        bend = (inputs * (share * likely * (1 - likely))[:, None]).T @ inputs
        values -= np.linalg.solve(bend + 1e-3 * np.eye(len(values)), slope)
    return values


def shown(rows: Sequence[Judged], order: Float[np.ndarray, " N"], count: int) -> str:
    """Format the fraction of right captions among the first of an order, with its interval."""
    right = np.array([it.right for it in rows])[np.argsort(-order, kind="stable")[:count]]
    return with_interval(right)


def referee(arguments: argparse.Namespace) -> Rounds:
    if not arguments.photos:
        raise Unavailable("pass the folder of photos")
    model = loaded(arguments.model)
    judge = model._judge
    if judge is None:
        raise Unavailable(f"{arguments.model} has no nouns")
    table_rows, figures, first = list[list[str]](), Figures(), list[tuple[str, Judged]]()
    for name, images, truth in truths(arguments, judge):
        found = judged(model, judge, images, truth)
        parts = {"first half": found[::2], "second half": found[1::2]}
        first += [(name, it) for it in parts["first half"]] if name != "COCO" else []
        for part, rows in {"all": found}.items() if name == "COCO" else parts.items():
            certain = np.array([(it.caption.certainty or 0.0) >= CERTAIN for it in rows])
            right = np.array([it.right for it in rows])
            details = np.array([it.all_right for it in rows])[certain]
            has_details = name in ("sentences", "COCO")
            nouns = np.array([bool(it.caption.noun) for it in rows]) & ~certain
            either = np.where(certain, right, [it.noun_right for it in rows])[certain | nouns]
            cosine = np.array([it.evidence.cosine for it in rows])
            mean = np.array([it.evidence.mean for it in rows])
            count = int(certain.sum())
            table_rows.append(
                [
                    f"{name}, {part}",
                    f"{right.mean():.3f}",
                    f"{certain.mean():.3f}",
                    with_interval(right[certain]),
                    with_interval(details) if has_details else "",
                    shown(rows, cosine, count),
                    shown(rows, mean, count),
                    f"{(certain | nouns).mean():.3f}",
                    with_interval(either),
                ]
            )
            figures |= {
                f"{name}, {part}, all right": float(right.mean()),
                f"{name}, {part}, certain": float(certain.mean()),
                f"{name}, {part}, certain right": float(right[certain].mean()),
                **({f"{name}, {part}, details": float(details.mean())} if has_details else {}),
                f"{name}, {part}, with nouns": float((certain | nouns).mean()),
                f"{name}, {part}, with nouns right": float(either.mean()),
            }
    fits = [
        [kind, *(f"{value:.2f}" for value in (OFFSETS[kind], *WEIGHTS[kind][1:])), "constants"]
        for kind in WEIGHTS
    ] + [[kind, *(f"{value:.2f}" for value in fitted(first, kind)), "fitted"] for kind in WEIGHTS]
    columns = ["set", "right of all", "certain", "right", "details", "by cosine", "by likelihood"]
    rounds = Rounds({"certainty": [figures]})
    write_report(
        arguments,
        rounds,
        "certainty",
        f"Captions that are at least {CERTAIN:.0%} certain",
        "The fraction of captions that are certain, and the fraction of these that are right, with "
        "its 95 % interval (bootstrap over images). Details: the first noun and all others are "
        "right, by the sentences of people. Then as many captions by cosine and by mean "
        "log-probability. The last two columns are with sure nouns in place of uncertain captions. "
        "Flickr8k mostly shows people: there, most captions about people are right.",
        table([*columns, "with nouns", "right"], table_rows),
        table(["kind", "offset", "mass", "cosine", "people", "mean", ""], fits),
        packages=["torch", "numpy"],
    )
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    add_data(options)
    run(options, referee=referee, quick=QUICK, units=UNITS, rounds=1)

"""Everyday nouns over photos of ImageNet's classes, and what captions call these photos.

    python benchmarks/nouns.py everyday photos_cc_by_600.zip --start 0.5 --captions
    python benchmarks/nouns.py everyday photos_cc_by_600.zip --marks

A query is a noun among the 3,000 most frequent that is above 2 to 200 classes of the photos. A
photo is right if its class is below the noun: in WordNet alone, by any sense, or in the table of
`recipes/data/hypernyms.py`. Precision is that of the first five photos, or of as many as are right.
Three baselines know the classes below: they rank by the mean and the highest cosine of their names,
and by their mass in the encoder's own classifier with its published weights. German nouns are those
of the table. Intervals (95 %) are bootstraps over nouns.

The zip has `meta.jsonl`, whose rows have `image`, `class_names` and `imagenet_class`. `--start`
leaves out a part by the hash of `image`. `--captions` counts captions that name the class or a
noun above it but "animal", and captions that name another class or noun, words of people excepted.
A caption names the longest match at each place, in the singular or the plural.

`--marks` takes the 40 nouns of the table with the most photos, at most 200, and marks the first 5
right and the first 5 wrong photos among the first 20 of each. Precision is that of the next 10 of
the unmarked photos, or of as many as are right.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from jaxtyping import Bool, Float
from numpy import ndarray
from options import run
from side_by_side import Figures, Rounds, Unavailable, table, write_report

import coca
from coca.core.config.frozen_config import from_dict
from coca.data.sources.factory import open_source
from coca.data.sources.source import PartConfig
from coca.data.sources.zip_archive import ZipConfig
from coca.predict.prompts import PROMPTS
from coca.search.query import query_terms as terms
from coca.search.query.query_terms import Term, embed_queries, singular
from coca.tasks.baselines import ClassifierConfig, EncoderClassifier

RECIPES = Path(__file__).parents[1] / "recipes"
sys.path.append(str(RECIPES / "data"))
import hypernyms  # noqa: E402
import word_vectors  # noqa: E402
import wordnet  # noqa: E402

FREQUENT, CLASSES, GERMAN, HITS = 3_000, range(2, 201), 60, 5
NOUNS, MAX_PHOTOS, SHOWN, MARKS, NEXT = 40, 200, 20, 5, 10
ANIMALS = frozenset(("animal", "creature", "beast", "fauna"))
FAULTS = {
    "template": r"^(a|an|the) (photo|picture|image|drawing|icon)s? of\b",
    "a word twice": r"\b(?!(?:the|and|with|are|its|his|her)\b)(\w{3,})\b.*\b\1\b",
    "wrong article": r"\ba (?!uni|use|eu|one)[aeiou]|\ban (?!hour|hono|hones)[^aeiou\W]",
}
Below = dict[str, set[int]]  # the classes below each word


class Words(NamedTuple):
    """The classes, the most frequent nouns, and what is below nouns."""

    classes: list[hypernyms.ClassText]
    frequent: list[str]
    pure: Below  # by WordNet alone
    own: Below  # with the corrections
    german: dict[str, list[str]]


def read_words(arguments: argparse.Namespace) -> Words:
    if not Path(arguments.vectors).is_file():
        raise Unavailable(f"{arguments.vectors} is missing; recipes/data/word_vectors.py writes it")
    words = word_vectors.WordVectors.load(arguments.vectors).words
    classes, corrections = hypernyms.imagenet_classes(), hypernyms.OwnNouns.load()
    german = json.loads(hypernyms.GERMAN_NOUNS.read_text(encoding="utf-8"))
    with wordnet.wordnet(arguments.packages) as source:
        nouns = hypernyms.typed_nouns(classes, source, words, corrections, german)
        synsets = hypernyms.class_synsets(classes, source.nouns)
    senses = hypernyms.senses_above(synsets, source.nouns)
    uses: dict[str, list[float]] = {}
    for sense in source.senses:
        is_noun = sense.is_noun and not source.nouns[sense.synset].is_name
        uses.setdefault(sense.word, [0.0, 0.0])[is_noun] += sense.use
    frequent = [word for word in words if word in uses and uses[word][1] >= uses[word][0]]
    pure = {word: set().union(*below.values()) for word, below in senses.items()}
    own = {word: set(noun.depths) for noun in nouns for word in noun.words}
    return Words(classes, frequent[:FREQUENT], pure, own, german)


def rates(scores: Float[ndarray, " N"], right: Bool[ndarray, " N"]) -> tuple[float, float]:
    """Compute the precision of the first hits and the average precision."""
    hits = right[np.argsort(-scores, kind="stable")]
    precisions = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float(hits[: min(HITS, int(hits.sum()))].mean()), float(precisions[hits].mean())


def marked(
    query: Float[ndarray, " E"], vectors: Float[ndarray, "N E"], right: Bool[ndarray, " N"]
) -> dict[str, float]:
    """Compute the precision of the next unmarked photos by each use of the marks of a query."""
    first = np.argsort(-vectors @ query, kind="stable")[:SHOWN]
    marks = first[right[first]][:MARKS], first[~right[first]][:MARKS]
    wanted, unwanted = ([Term(vector=vectors[row]) for row in rows] for rows in marks)
    positive = [Term(vector=query), *wanted]
    methods = {
        "typed": positive[:1],
        "mean of right": wanted or positive,
        "marks": terms.weigh_examples(positive, unwanted),
        "sum": [*positive, *(term.replace(weight=-1.0) for term in unwanted)],
    }
    others, figures = np.setdiff1d(np.arange(len(vectors)), np.concatenate(marks)), {}
    for name, some in methods.items():
        combined = terms.direction([it.vector[None] for it in some], [it.weight for it in some])
        scores = vectors[others] @ combined[0]
        hits = right[others][np.argsort(-scores, kind="stable")]
        figures[name] = float(hits[: min(NEXT, int(hits.sum()))].mean())
    return figures


def with_interval(values: Float[ndarray, " Q"] | Bool[ndarray, " Q"]) -> str:
    if not len(values):
        return "-"
    drawn = np.random.default_rng(0).choice(values, (2_000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{np.mean(values):.3f} ({low:.3f} to {high:.3f})"


def named(caption: str, vocabulary: Below) -> list[str]:
    """Return the words and compounds of a caption that the vocabulary has."""
    tokens, found = re.findall(r"[\w'-]+", caption.lower()), list[str]()
    while tokens:
        for size in (4, 3, 2, 1):
            text = " ".join(tokens[:size])
            if match := next((it for it in (text, singular(text)) if it in vocabulary), ""):
                found.append(match)
                break
        tokens = tokens[size:]
    return found


def caption_figures(captions: Sequence[str], labels: Sequence[int], words: Words) -> Figures:
    """Compute the fractions of captions that name the class, another class, and with faults."""
    vocabulary = {word: set(below) for word, below in words.own.items()}
    for number, entry in enumerate(words.classes):
        for name in entry.names:
            vocabulary.setdefault(name, set()).add(number)
    people, facts = words.own["person"], []
    for caption, label in zip(captions, labels, strict=True):
        found = named(caption, vocabulary)
        right = [it for it in found if label in vocabulary[it] | words.pure.get(it, set())]
        wrong = [it for it in found if it not in right and not vocabulary[it] <= people]
        kinds = {
            "names the class": any(it in words.classes[label].names for it in right),
            "names the class or a noun above": any(it not in ANIMALS for it in right),
            "names another": bool(wrong),
            "names another alone": bool(wrong) and not right,
        }
        facts.append(kinds | {it: bool(re.search(FAULTS[it], caption.lower())) for it in FAULTS})
    return {name: float(np.mean([fact[name] for fact in facts])) for name in facts[0]}


def referee(arguments: argparse.Namespace) -> Rounds:
    if not arguments.photos:
        raise Unavailable("pass the zip of photos")
    words = read_words(arguments)
    part = PartConfig(by="image", start=arguments.start)
    source = open_source(ZipConfig(path=arguments.photos, label_column="class_names", part=part))
    samples = [source.read(row) for row in range(len(source))]
    images = [sample.image for sample in samples]
    labels = np.array([sample.metadata["imagenet_class"] for sample in samples])
    model = coca.load(arguments.model)
    vectors = model.embed_images(images)
    recipe = yaml.safe_load((RECIPES / "evaluate" / "everyday.yaml").read_text(encoding="utf-8"))
    encoder = from_dict(ClassifierConfig, recipe["tasks"][0]["classifier"], source="everyday.yaml")
    mass = EncoderClassifier(encoder, model).probabilities(images)
    names = embed_queries(model.embed_texts, [it.names[0] for it in words.classes]) @ vectors.T
    present, rounds, rows, marks = set(labels.tolist()), Rounds(), [], []

    def score(title: str, method: str, truth: Below, asked: list[str], scores: Any) -> None:
        right = [np.isin(labels, list(truth[word])) for word in asked]
        values = np.array([rates(*pair) for pair in zip(scores, right, strict=True)])
        rounds[f"{title}, {method}"] = [dict(zip(("P@5", "mAP"), values.mean(axis=0), strict=True))]
        rows.append([title, method, str(len(asked)), *map(with_interval, values.T)])

    chosen = {
        "WordNet, all nouns": (words.pure, words.pure),
        "WordNet, nouns of the table": (words.pure, words.own),
        "table": (words.own, words.own),
    }
    for title, (truth, kept) in chosen.items():
        shared = [word for word in words.frequent if word in truth and word in kept]
        asked = [word for word in shared if len(truth[word] & present) in CLASSES]
        below = [sorted(truth[word]) for word in asked]
        methods = {
            "typed": embed_queries(model.embed_texts, asked) @ vectors.T,
            "in prompts": model.class_embeddings(asked, templates=PROMPTS["photo"]) @ vectors.T,
            "mean of names": [names[some].mean(axis=0) for some in below],
            "highest of names": [names[some].max(axis=0) for some in below],
            "classifier": [mass[:, some].sum(axis=1) for some in below],
        }
        for method, scores in methods.items():
            score(title, method, truth, asked, scores)
        german = [word for word in asked if word in words.german][:GERMAN]
        typed = embed_queries(model.embed_texts, [words.german[word][0] for word in german])
        score(title, "typed in German", truth, german, typed @ vectors.T)
    sections = [table(["right by", "ranked by", "nouns", "P@5", "mAP"], rows)]
    if arguments.marks:
        sets = {word: np.isin(labels, list(below)) for word, below in words.own.items()}
        few = {right.tobytes(): word for word, right in sets.items() if right.sum() <= MAX_PHOTOS}
        asked = sorted(few.values(), key=lambda word: (-sets[word].sum(), word))[:NOUNS]
        typed = embed_queries(model.embed_texts, asked)
        found = [marked(query, vectors, sets[it]) for it, query in zip(asked, typed, strict=True)]
        for method in found[0]:
            values = np.array([one[method] for one in found])
            less = values - [one["mean of right"] for one in found]
            rounds[f"marks, {method}"] = [{"P@10": float(values.mean())}]
            marks.append([method, with_interval(values), with_interval(less)])
        sections.append(table(["query", "P@10", "less mean of right"], marks))
    if arguments.captions:
        texts = [caption.text for caption in model.caption(images)]
        rounds["captions"] = [caption_figures(texts, labels.tolist(), words)]
        rows = [[name, f"{value:.3f}"] for name, value in rounds["captions"][0].items()]
        sections.append(table(["captions", "fraction"], rows))
    title = f"Everyday nouns over {len(images)} photos, `{arguments.model}`"
    write_report(arguments, rounds, "nouns", title, *sections, packages=["torch"])
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("model", nargs="?", default="everyday", help="model (default everyday)")
    options.add_argument("photos", nargs="?", help="zip of photos with their classes")
    options.add_argument("--start", type=float, default=0.0, help="fraction left out (default 0)")
    options.add_argument("--marks", action="store_true", help="score marked queries as well")
    options.add_argument("--captions", action="store_true", help="score generated captions as well")
    vectors = "runs/everyday-data/english_vectors.safetensors"
    options.add_argument("--vectors", default=vectors, help="words by frequency (%(default)s)")
    options.add_argument("--packages", type=Path, help="node_modules folder (default: npm)")
    run(options, referee=referee, quick={}, units={"*": "fraction"}, rounds=1)

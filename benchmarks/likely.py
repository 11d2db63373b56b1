"""The line between likely and unlikely hits: what is above it, next to one cosine for all queries.

    python benchmarks/likely.py --photos FOLDER

Nouns: those of the model's table with 5 to 150 of the 600 photos; precision and recall over all
pairs of noun and photo, and the mean over nouns. Sentences: two captions of each photo of
Flickr8k's validation split; how often the own photo is above the line, and the fraction of all
photos that are. Drawings: 100 everyday queries over OpenMoji, which chose nothing. The constants of
`coca.search.query.likely` were chosen on the first half of photos and sentences; the second half
chose nothing but `MOST`. The baseline is one cosine, chosen on the first half of the nouns.

Dimensions: Q queries, N photos.
"""

import argparse

import numpy as np
from jaxtyping import Bool, Float
from options import run
from ranking import add_data, embedded, loaded, noun_photos
from side_by_side import Figures, Rounds, table, write_report

from coca.search.query.likely import line_of
from coca.search.query.query_terms import embed_queries

SETS = {"sentences": "flickr", "drawings": "everyday"}


def rates(above: Bool[np.ndarray, "Q N"], right: Bool[np.ndarray, "Q N"]) -> dict[str, float]:
    """Compute precision and recall of all pairs, and their means over queries."""
    hits, shown = (above & right).sum(axis=1), above.sum(axis=1)
    return {
        "precision": float(hits.sum() / max(shown.sum(), 1)),
        "recall": float(hits.sum() / right.sum()),
        "mean precision": float((hits / np.maximum(shown, 1))[shown > 0].mean()),
        "mean recall": float((hits / right.sum(axis=1)).mean()),
    }


def best_cosine(scores: Float[np.ndarray, "Q N"], right: Bool[np.ndarray, "Q N"]) -> float:
    """Find the cosine with the highest F1 of all pairs."""
    cosines = np.linspace(0.05, 0.35, 61)
    f1 = [
        2 * ((scores >= it) & right).sum() / ((scores >= it).sum() + right.sum()) for it in cosines
    ]
    return float(cosines[int(np.argmax(f1))])


def referee(arguments: argparse.Namespace) -> Rounds:
    model = loaded(arguments.model)
    nouns, rows, figures = noun_photos(arguments), list[list[str]](), Figures()
    data = {name: embedded(name, arguments) for name in ("classes", "flickr", "everyday")}
    vectors = embed_queries(model.embed_texts, list(nouns))
    first = np.arange(len(data["classes"]["images"])) % 2 == 0
    sets = {
        "nouns": (vectors, data["classes"]["images"], np.stack(list(nouns.values()))),
        **{
            name: (data[of]["queries"], data[of]["images"], data[of]["relevant"])
            for name, of in SETS.items()
        },
    }
    scores = vectors @ data["classes"]["images"].T
    cosine = best_cosine(scores[:, first], sets["nouns"][2][:, first])
    for name, (queries, images, right) in sets.items():
        texts = list(nouns) if name == "nouns" else data[SETS[name]]["texts"].tolist()
        lines = np.array(
            [line_of(model, *pair) for pair in zip(queries, texts, strict=True)], np.float32
        )[:, None]
        half = np.arange(len(images)) % 2 == 0
        for method, least in (("line", lines), (f"cosine {cosine:.2f}", np.float32(cosine))):
            above = queries @ images.T >= least
            for part, columns in (("first half", half), ("second half", ~half)):
                asked = right[:, columns].any(axis=1)
                found = rates(above[asked][:, columns], right[asked][:, columns])
                found["above"] = float(above[asked][:, columns].mean())
                rows.append([name, part, method, *(f"{value:.3f}" for value in found.values())])
                kind = "line" if method == "line" else "cosine"
                figures |= {f"{name}, {part}, {kind}, {key}": it for key, it in found.items()}
    rounds = Rounds({"likely": [figures]})
    columns = ["precision", "recall", "mean precision", "mean recall", "fraction above"]
    write_report(
        arguments,
        rounds,
        "likely",
        "The line between likely and unlikely hits",
        "Sentences: one photo is right, so recall is the fraction of sentences whose photo is "
        "above the line, and precision means little.",
        table(["queries", "photos", "above", *columns], rows),
        packages=["onnxruntime", "numpy"],
    )
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="everyday", help="model (default everyday)")
    add_data(options)
    options.add_argument("--cache", default="runs/bench/ranking", help="folder of the vectors")
    run(options, referee=referee, quick={"rounds": 1}, units={"*": "fraction"}, rounds=1)

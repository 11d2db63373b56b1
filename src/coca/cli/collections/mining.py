"""Commands `coca recommend`, `coca duplicates` and `coca mine`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coca.cli.console import Console, shows_progress, to_try
from coca.cli.options import defaults, images
from coca.cli.options.option_groups import Group
from coca.cli.options.search_options import (
    FILTERS,
    CollectionOptions,
    FilterOptions,
    from_here,
    print_hits,
)
from coca.core.errors import ConfigError
from coca.core.files.formats import IMAGE_SUFFIXES
from coca.search.search_options import Choice, RecommendOptions

if TYPE_CHECKING:
    from coca.workflows.collections.subset import Subset


def recommend(
    positive: Annotated[
        list[str],
        typer.Argument(
            metavar="POSITIVE[:WEIGHT]",
            help="Positive examples: image files or texts, with an optional weight. Words without "
            "a weight are one text.",
        ),
    ],
    *,
    negative: Annotated[
        list[str] | None,
        typer.Option(
            "--negative", help="Negative example, an image file or text; may be repeated."
        ),
    ] = None,
    seen: Annotated[
        list[str] | None,
        typer.Option("--seen", help="Record id to exclude; may be repeated."),
    ] = None,
    among: Annotated[FilterOptions, FILTERS],
    options: Annotated[
        RecommendOptions,
        Group(panel="Options", short={"limit": "-k"}, only=("limit", "diversity")),
    ],
    target: CollectionOptions,
    execution: defaults.Run,
    console: Console,
) -> None:
    """Recommend images from positive and negative examples, diversified by MMR.

    The score is the cosine similarity. With --diversity D results are sorted by their rank score,
    the marginal relevance: (1 - D) x score - D x (cosine to the nearest result ranked above, -1
    for the first).
    """
    from coca.cli.options.query_arguments import parse_arguments, parse_terms

    wanted = parse_arguments(positive)
    avoided = parse_terms(*_texts_and_files(negative)) if negative else []
    from coca.search.mining.recommend import recommend as recommended

    with target.open(execution) as engine:
        hits = recommended(
            engine,
            wanted,
            negative=avoided,
            seen=set(seen or []),
            **dict(options.replace(filter=among.expression(engine.collection))),
        )
    print_hits(console, hits)


@shows_progress
def duplicates(
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            help="Image or folder to compare with, such as a test set; may be repeated; default: "
            "the collection itself.",
        ),
    ] = None,
    *,
    limit: Annotated[
        int, typer.Option("-k", "--limit", min=0, help="Maximum number of pairs to print.")
    ] = 20,
    target: CollectionOptions,
    execution: defaults.Run,
    console: Console,
) -> None:
    """Find near-duplicates within a collection, or between it and other images.

    Three kinds: the same bytes; the same image in another size, compression or in grey; and parts
    or edited versions, such as crops, mirrored images and images with text. `drop` of --json lists
    files of the first two kinds, all but the best of each group: the one with the most pixels, then
    bytes, then metadata. Look at the pairs before you drop any.
    """
    files = images.find(against or [])
    from coca.search.mining.duplicates import KEPT_PAIRS
    from coca.workflows.collections.mining import find_duplicates

    with target.open_collection() as collection:
        found, images_there = find_duplicates(
            collection,
            others=files,
            predictor=target.load_model(collection, execution) if files else None,
            keep=max(limit, KEPT_PAIRS),
        )
    paths, copies = images_there.paths, images_there.copies
    dropped = {paths[row] for row in found.drop}
    drop = dropped.union(*(copies.get(path, ()) for path in dropped))
    listed = {} if files else copies
    drop.update(path for others in listed.values() for path in others)
    shown = [
        (pair, paths[pair.first], files[pair.second] if files else paths[pair.second])
        for pair in found.pairs
    ]
    rows = [
        ["same bytes", "", from_here(path), from_here(other)]
        for path, others in listed.items()
        for other in others
    ]
    rows += [
        [pair.kind, f"{pair.score:.3f}", from_here(first), from_here(second)]
        for pair, first, second in shown
    ]
    if rows:
        console.table(["kind", "cosine", "first", "second"], rows[:limit], right=["cosine"])
    console.say(
        f"{sum(map(len, listed.values())):,} files with the same bytes as another, "
        f"{found.counts['same image']:,} pairs of the same image, and "
        f"{found.counts['part or edit']:,} of a part or edit among {len(paths):,} images"
        + (f" and {len(files):,} others" if files else "")
        + (f"; without {len(drop):,} files no image is left twice" if drop else "")
    )
    if unknown := len(paths) - int(images_there.hashes.any(axis=1).sum()):
        console.say(f"{unknown:,} images have no perceptual hash and are compared by bytes only")
    console.emit(
        {
            "count": len(paths),
            "pair_counts": found.counts,
            "pairs": [
                {"kind": pair.kind, "score": pair.score, "first": first, "second": second}
                for pair, first, second in shown
            ],
            "groups": [[paths[row] for row in group] for group in found.groups],
            "related": [[paths[row] for row in group] for group in found.related],
            "copies": [{"path": path, "copies": others} for path, others in listed.items()],
            "drop": sorted(drop),
        }
    )


@shows_progress
def mine(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="Manifest OUT.jsonl with the paths of the images, or a folder for shards with the "
            "images themselves. Images of tars and videos need shards.",
        ),
    ],
    *,
    choice: Annotated[
        Choice,
        Group(
            panel="Options",
            only=("count", "fraction", "diverse", "max_similarity", "min_score"),
        ),
    ],
    query: Annotated[
        list[str] | None,
        typer.Option(
            "--query", "-q", help="Select the images nearest to TEXT[:WEIGHT]; may be repeated."
        ),
    ] = None,
    positive: Annotated[
        list[str] | None,
        typer.Option(
            "--positive", help="Select the images nearest to any of these images; may be repeated."
        ),
    ] = None,
    uncertain: Annotated[
        str,
        typer.Option(
            "--uncertain",
            help="Select images with the highest class entropy, by the classes of this collection.",
        ),
    ] = "",
    away_from: Annotated[
        list[str] | None,
        typer.Option(
            "--away-from", help="Skip near-duplicates of these images as well; may be repeated."
        ),
    ] = None,
    model_captions: Annotated[
        bool,
        typer.Option("--model-captions", help="Write model-generated captions as well."),
    ] = False,
    among: Annotated[FilterOptions, FILTERS],
    target: CollectionOptions,
    execution: defaults.Run,
    console: Console,
) -> None:
    """Select images of a collection for training, and write them as a manifest or as shards."""
    from coca.cli.options.query_arguments import parse_terms

    terms = parse_terms(query) if query else []
    examples, apart = images.find(positive or []), images.find(away_from or [])
    from contextlib import ExitStack

    from coca.search.filters import NOT_HIDDEN
    from coca.workflows.collections import mining as workflow
    from coca.workflows.collections.class_prompts import find_classes
    from coca.workflows.collections.subset import check_out

    # Wrong calls fail here, before a model is loaded.
    check_out(out)
    with ExitStack() as opened:
        collection = opened.enter_context(target.open_collection())
        if uncertain:
            find_classes(collection.info.uri, uncertain, token=target.token)
        classes = opened.enter_context(target.open_collection(uncertain)) if uncertain else None
        wanted = workflow.Mining(
            terms=terms,
            examples=examples,
            uncertain_among=classes,
            filter=among.expression(collection),
            away_from=apart,
        )
        total = collection.count(NOT_HIDDEN)
        predictor = target.load_model(collection, execution)
        subset = workflow.mine(
            collection,
            predictor,
            wanted,
            choice,
            out,
            model_captions=model_captions,
        )
    for _, sentence in subset.lost:
        console.complain(sentence)
    console.say(
        f"{subset.written:,} of {total:,} images are in {out}"
        + (f", {len(subset.lost):,} selected images are unreadable" if subset.lost else "")
    )
    if subset.model_captions:
        console.say(
            f"{subset.model_captions:,} model-generated captions are left out; "
            "--model-captions writes them as well"
        )
    console.say(_how_to_train(subset, out))
    console.emit(
        {
            "out": str(out),
            "chosen": subset.written,
            "of": total,
            "model_captions_left_out": subset.model_captions,
            "lost": [{"path": path, "error": error} for path, error in subset.lost],
        }
    )


def _how_to_train(subset: "Subset", out: Path) -> str:
    """Return the command that trains on a subset, with the kind of text that most images have."""
    if subset.text is None:
        return "none of them has a caption or a label, so `coca pretrain` cannot train on them"
    usable = subset.captioned if subset.text == "captions" else subset.labelled
    kind = "manifest" if out.suffix == ".jsonl" else "shards"
    text = ", text: labels" if subset.text == "labels" else ""
    changes = [f"data.sources=[{{kind: {kind}, path: {out}{text}}}]"]
    sentence = "train on them"
    if usable < subset.written:
        # Images without text count as bad and are replaced; above the limit the run would stop.
        sentence += f" ({usable:,} of {subset.written:,} have {subset.text})"
        fraction = math.ceil(100 * (1 - usable / subset.written)) / 100
        changes.append(f"data.loader.max_bad_fraction={min(1, fraction + 0.1):.2f}")
    return f"{sentence}: {to_try('pretrain', 'RECIPE.yaml', *changes)}"


def _texts_and_files(words: list[str]) -> tuple[list[str], list[str]]:
    """Split arguments into texts and paths of existing files, with their weights."""
    texts, files = [], []
    for word in words:
        name = word if Path(word).is_file() else word.rpartition(":")[0]
        if Path(name).is_file():
            files.append(word)
        elif {Path(name).suffix.lower(), Path(word).suffix.lower()} & set(IMAGE_SUFFIXES):
            raise ConfigError(f"{word} does not exist")
        else:
            texts.append(word)
    return texts, files

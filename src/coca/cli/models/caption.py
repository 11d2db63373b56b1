"""Command `coca caption`: generate captions, or correct those of a collection."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coca.cli.console import Console, shows_progress
from coca.cli.options import defaults, images
from coca.cli.options.search_options import CollectionOptions
from coca.core.config.execution import CERTAIN
from coca.core.config.frozen_config import load_config
from coca.core.errors import SearchError
from coca.model.generation.generation_config import GenerationConfig
from coca.search.filters import where
from coca.search.records import CAPTION, METADATA, PATH, TAGS

if TYPE_CHECKING:
    from coca.predict.inputs import Caption
    from coca.search.store import Collection


@shows_progress
def caption(
    files: images.Files,
    prompt: Annotated[
        str, typer.Option("--prompt", help="Text that each caption begins with.")
    ] = "",
    *,
    decoding: Annotated[
        list[str] | None,
        typer.Option(
            "--decoding",
            metavar="KEY=VALUE",
            help="Option of generation, such as num_beams=1, num_return_sequences=3 or "
            "temperature=0.8; may be repeated (docs/captions.md).",
        ),
    ] = None,
    uncertain: Annotated[
        bool, typer.Option("--all", help="Print captions that the model is not certain of, too.")
    ] = False,
    edits: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[KEY=]TEXT",
            help="Caption of the images in the collection; also tags=A,B, people=A,B or "
            "title=TEXT; may be repeated.",
        ),
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Restore what the collection had before all edits.")
    ] = False,
    out: images.Out = None,
    uri: defaults.Uri = None,
    collection: defaults.Collection = None,
    token: defaults.Token = "",
    model: defaults.Model = None,
    execution: defaults.Run,
    console: Console,
) -> None:
    """Caption images and videos, or correct their captions.

    With --set and --undo, nothing is generated: the records of the images in the collection are
    corrected, and searches find them by the new text.

    Certainty is the probability that the first noun of a caption is right; a dash if the model has
    none. An uncertain caption is replaced by a noun that the model is sure of, or by nothing,
    unless --all, --prompt or several captions are asked for. The score is the log-likelihood of the
    caption, in nats: 0 is the highest. Several captions of an
    image are sorted by their rank score. In beam search it is the score, less the penalties of the
    constraints, divided by (number of tokens) ** length_penalty; when sampling it is the score.
    With --out FILE, each caption is a row, certain or not: path, rank, caption, score, rank_score,
    certainty, noun.
    """
    if edits or undo:
        target = CollectionOptions(uri=uri, collection=collection, token=token, model=model)
        with target.open(execution) as engine:
            ids = _ids(engine.collection, files)
            records = engine.undo(ids) if undo else []
            if edits:
                records = engine.edit(ids, **_parsed(edits))
        rows = [[one.caption, ", ".join(one.tags), one.path] for one in records]
        console.table(["caption", "tags", "path"], rows)
        names = ("id", PATH, CAPTION, TAGS, METADATA, "unedited")
        console.emit([{name: getattr(one, name) for name in names} for one in records])
        return
    config = load_config(GenerationConfig, overrides=decoding or [])
    several = config.num_return_sequences > 1
    if out is not None:
        images.check_out(out)
    paths = images.find(files, videos=True)
    from coca.predict.video import caption_files

    least = 0.0 if uncertain or several else CERTAIN

    predictor = defaults.load_model(model, execution)
    outcomes = images.work_through(
        paths,
        lambda batch: caption_files(predictor, batch, prompt=prompt, decoding=config),
        batch_size=predictor.batch_size,
        title="captioning",
    )
    good = [it for it in outcomes if not isinstance(it, images.Bad)]
    if unsure := sum(it.certain(least) != it.text for it in good):
        console.note(
            f"{unsure:,} of {len(good):,} captions are less than {CERTAIN:.0%} certain; --all "
            "prints them"
        )
    images.print_outcomes(
        console,
        paths,
        outcomes,
        columns=["caption", "certainty", *(["rank score"] if several else []), "score", "path"],
        right=["certainty", "rank score", "score"],
        rows=lambda path, best: [
            [
                one.certain(least) or "-",
                "-" if one.certainty is None else f"{one.certainty:.2f}",
                *([f"{one.rank_score:.3f}"] if several else []),
                f"{one.score:.2f}",
                path,
            ]
            for one in (best, *best.others)
        ],
        entry=lambda best: {"captions": [_entry(one) for one in (best, *best.others)]},
        out=out,
        records=lambda best: [
            {
                "rank": rank,
                "caption": one.text,
                "score": one.score,
                "rank_score": one.rank_score,
                "certainty": one.certainty,
                "noun": one.noun,
            }
            for rank, one in enumerate((best, *best.others), start=1)
        ],
    )


def _ids(collection: "Collection", files: Sequence[str]) -> list[str]:
    """Find the records of images by their paths."""
    paths = {os.path.abspath(file): file for file in files} | {file: file for file in files}
    found = collection.get(collection.ids(where(PATH, "in", list(paths))))
    if missing := set(files) - {paths[record.path] for record in found.values()}:
        raise SearchError(
            f"{min(missing)} is not in collection {collection.info.collection!r}: `coca index` it"
        )
    return list(found)


def _parsed(edits: Sequence[str]) -> dict[str, Any]:
    """Parse `--set`: a caption, or KEY=TEXT."""
    parsed: dict[str, Any] = {METADATA: {}}
    for edit in edits:
        key, is_named, text = edit.partition("=")
        values = [part.strip() for part in text.split(",") if part.strip()]
        if is_named and key == TAGS:
            parsed[TAGS] = values
        elif is_named and key in ("people", "title"):
            parsed[METADATA][key] = (values if key == "people" else text) or None
        else:
            parsed[CAPTION] = text if is_named and key == CAPTION else edit
    return parsed


def _entry(caption: "Caption") -> dict[str, Any]:
    return {
        "text": caption.text,
        "score": caption.score,
        "rank_score": caption.rank_score,
        "certainty": caption.certainty,
        "noun": caption.noun,
        "token_ids": list(caption.token_ids),
        "log_probabilities": list(caption.log_probabilities),
    }

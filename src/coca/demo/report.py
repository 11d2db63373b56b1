"""Report of the demo: training curves, scores with baselines, searches, captions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coca.core.files.atomic import write_atomic
from coca.demo.emoji import VENDORS
from coca.demo.photos import CREDITS
from coca.metrics.intervals import interval_shown, wilson_interval
from coca.model.pretrained import count_parameters
from coca.search.records import Hit
from coca.tasks.task import Example, ImageRow
from coca.workflows.evaluation.plots import line_plot
from coca.workflows.evaluation.report import (
    Drawing,
    Number,
    Plot,
    Section,
    Table,
    parameters_shown,
    render,
)
from coca.workflows.training.pretrain import PretrainConfig

SEEN, UNSEEN = (vendor.capitalize() for vendor in VENDORS)
_CURVES = {
    "contrastive loss (nats)": "contrastive",
    "captioning loss (nats a word)": "captioning",
    "image to text, right in the batch": "image_to_text@1",
}


def lead_of_shipped(model: str, parameters: int) -> str:
    """Write the introduction for a pretrained model."""
    size = parameters_shown(parameters)
    return f"{model}, a CoCa of {size} parameters, shown on photos and on {UNSEEN}'s drawings."


def lead_of_trained(config: PretrainConfig) -> str:
    """Write the introduction for a model trained by this run."""
    size = parameters_shown(count_parameters(config.model)["total"])
    seen = config.train.steps * config.data.loader.batch_size
    return (
        f"A CoCa of {size} parameters, trained from scratch on {SEEN}'s drawings ({seen:,} pairs "
        f"seen, both losses), and shown here on {UNSEEN}'s, by a vendor whose images it has "
        "never seen, and on photos."
    )


def write_report(
    path: Path,
    *,
    lead: str,
    metrics: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, Number]],
    walls: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    photos: Sequence[tuple[Path, Sequence[str], str]],
    captions: Sequence[tuple[Path, Sequence[str], str]],
    cross_attention_maps: Mapping[str, bytes],
) -> None:
    """Write the report as an HTML page."""
    sections = [
        Section(
            "Searching photos",
            f"Typed queries among photos of Flickr (CC BY 2.0, cropped and resized; {CREDITS} next "
            "to the photos links each to its page) without given captions: the model reads the "
            "image alone. Below each photo are the caption that the model wrote, which the search "
            "does not use, the cosine, and the author. No photo shows the last two queries.",
            [_wall(wall) for wall in walls],
        ),
        Section(
            "Captions of photos",
            "Above, the generated text; below, the class of the photo, which the model has not "
            "read, and the author.",
            [
                ImageRow(
                    "Spread over the file names",
                    tuple(Example((written, *names), path) for path, names, written in photos),
                )
            ],
        ),
        Section(
            "Everyday queries",
            f"Typed queries among {UNSEEN}'s drawings, each with all correct drawings. The names "
            "of the drawings answer most of them without any image. No training has read the "
            "drawings, but settings of this package were chosen by their scores: this is a "
            "development set. The interval is over the queries, of one trained model (one seed).",
            [_queries_table(scores["everyday queries"], scores["coca search"])],
        ),
        Section(
            f"Scores on {UNSEEN}, the development set",
            "Chance is the score of guessing. The pixel baseline returns the nearest 16 x 16 "
            f"thumbnail, without empty borders, among {SEEN}'s drawings, whose names are known.",
            [_scores_table(part, scores) for part in ("all", "without flags")],
        ),
        *([Section("Training", blocks=[_curves(metrics)])] if metrics else []),
        Section(
            "Searching in Milvus",
            f"{UNSEEN}'s drawings in a Milvus Lite collection; the score is the "
            "cosine with the image. Typed queries are also compared with the names below the "
            "drawings, as `coca search` does; queries by image read no name.",
            [_hits(one) for one in found],
        ),
        Section(
            "Captions of unseen drawings",
            "Above, the generated text after the prompt “a drawing of”; below, the true name. A "
            "frame marks a caption that equals one of the true names.",
            [_captions(captions)],
        ),
        Section(
            "Cross-attention maps",
            "Red marks more attention for this word than for the others of the caption, blue less; "
            "the scale is below each drawing.",
            [Drawing(png, name) for name, png in cross_attention_maps.items()],
        ),
    ]
    write_atomic(path, render("CoCa on photos and drawings", lead, sections).encode())


def _queries_table(model: Mapping[str, Number], search: Mapping[str, Number]) -> Table:
    """Compare the model with and without captions, and captions without a model or an image."""
    rows: list[tuple[str | Number, ...]] = []
    for title, scores, prefix in (
        ("images and names: coca search", search, ""),
        ("images alone: coca search --no-hybrid", model, ""),
        ("baseline: words of the names (BM25), no model", model, "words_"),
        ("baseline: vectors of the names, no image", model, "captions_"),
        ("chance", model, "chance_"),
    ):
        found = [scores[f"{prefix}success@{k}"] for k in (1, 5, 10)]
        is_chance = prefix == "chance_"
        interval = (
            "" if is_chance else interval_shown(wilson_interval(found[1], int(scores["samples"])))
        )
        rows.append((title, *found, interval))
    columns = [f"{model['samples']:,} queries", "first", "in the top 5", "in the top 10"]
    return Table([*columns, "95 % of the top 5"], rows)


def _scores_table(part: str, scores: Mapping[str, Mapping[str, Number]]) -> Table:
    model, floor = scores[f"retrieval {part}"], scores[f"trimmed_pixel_floor {part}"]
    zero_shot = scores[f"zero_shot {part}"]
    rows: list[tuple[str, Number, Number, Number]] = []
    for title, way in (
        ("text finds its image", "text_to_image"),
        ("image finds its name", "image_to_text"),
    ):
        for k in (1, 5, 10):
            key = f"{way}_recall@{k}"
            rows.append((f"{title}, recall@{k}", model[key], model[f"chance_{key}"], floor[key]))
    for k in (1, 5):
        # The baseline's image-to-text retrieval is the same problem as zero-shot classification.
        near = floor[f"image_to_text_recall@{k}"]
        score, chance = zero_shot[f"top{k}"], zero_shot[f"chance_top{k}"]
        rows.append((f"zero-shot with prompts, top-{k}", score, chance, near))
    above = sum(score > pixels for _, score, _, pixels in rows)
    note = f"CoCa is above the pixels in {above} of {len(rows)} rows. " + (
        "Some drawings are the same for two names, so no model can separate these."
        if part == "all"
        else "Flags carry names of countries that nothing else in the images explains."
    )
    columns = [f"{model['samples']:,} drawings, {part}", "CoCa", "chance", "pixels"]
    return Table(columns, rows, note)


def _curves(metrics: Sequence[Mapping[str, Any]]) -> Plot:
    panels = {
        title: {name: [(row["step"], row[name]) for row in metrics if name in row]}
        for title, name in _CURVES.items()
    }
    shown = {title: curves for title, curves in panels.items() if all(curves.values())}
    speed = sorted(row["pairs_per_s"] for row in metrics)[len(metrics) // 2]
    return Plot(line_plot(shown, x_label="step"), f"Median speed {speed:,.0f} pairs a second.")


def _wall(wall: Mapping[str, Any]) -> ImageRow:
    hits: Sequence[Hit] = wall["hits"]
    verdict = ": no match" if hits and hits[0].query_matches is False else ""
    examples = tuple(
        Example((hit.caption, f"{hit.score:.2f}", f"photo: {hit.metadata['author']}"), hit.path)
        for hit in hits
    )
    return ImageRow(f"“{wall['text']}”{verdict}", examples)


def _hits(found: Mapping[str, Any]) -> ImageRow:
    heading = found["title"] or f"“{found['text']}”"
    if found["filter"]:
        heading += f" with filter {found['filter']}"
    hits: Sequence[Hit] = found["hits"]
    examples = tuple(Example((hit.caption, f"{hit.score:.2f}"), hit.path) for hit in hits)
    if found["image"] is None:
        return ImageRow(heading, examples)
    return ImageRow(
        found["title"] or f"The image of {heading}",
        examples,
        lead=Example((found["text"], "the query"), found["image"]),
    )


def _captions(captions: Sequence[tuple[Path, Sequence[str], str]]) -> ImageRow:
    examples = tuple(
        Example((written, names[0]), path, correct=written in [name.lower() for name in names])
        for path, names, written in captions
    )
    right = sum(one.correct for one in examples)
    return ImageRow(f"{right} of {len(examples)} word for word", examples)

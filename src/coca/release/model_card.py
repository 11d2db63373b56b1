"""Model cards: description, training data, results and limitations of a model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from coca.core.config.frozen_config import Config
from coca.core.errors import ModelError
from coca.core.files.atomic import read_json
from coca.core.provenance import commit_shown
from coca.model.coca_config import HeadConfig
from coca.model.openclip.openclip_config import OpenCLIPConfig
from coca.model.pretrained import WEIGHTS_FILE, ModelConfig, count_parameters, load_config_file
from coca.predict.model_kinds import SOURCE_FILE
from coca.predict.torch_loading import fingerprint
from coca.processing.processor import Processor
from coca.tasks.baselines import SCORE_COLUMNS, score_rows
from coca.workflows.evaluation.report import table

CARD_FILE = "README.md"

UNKNOWN_LICENCE = "unknown"
"""The hub's licence identifier for weights without a stated licence."""

_SHOWN_CLASSES = 100

_TAGS = ("coca", "contrastive-captioner", "image-text", "image-captioning", "multimodal-search")


class DataLine(Config):
    """One training data source of a model."""

    name: str
    """Name of the source."""
    size: str
    """Amount used, with its unit, such as `3,200 drawings`."""
    terms: str
    """Licence or terms of use."""


class CardConfig(Config):
    """The text of a model card, as a file; the rest is read from the model, its run and reports."""

    title: str = ""
    """Name of the model."""
    intended_use: str = ""
    """Intended use, one paragraph."""
    limits: str = ""
    """Limitations and known failures."""
    licence: str = ""
    """The hub's identifier of the weights' licence."""
    training: str = ""
    """Description of the training, before what its run recorded."""
    data: tuple[DataLine, ...] = ()
    """Training data with their terms; default: the sources of the run."""
    load_as: str = ""
    """Name for `coca.load`, such as `hf:organisation/name`."""


@dataclass(frozen=True)
class ResultTable:
    """Measured scores and how they were measured."""

    title: str
    """Task and data, such as `Retrieval on 1,000 held-out drawings`."""
    columns: Sequence[str]
    """Header; the first column is the name of a score."""
    rows: Sequence[Sequence[str]]
    """One row per score."""
    note: str = ""
    """Seeds, machine and date, to reproduce the measurement."""


def model_card(
    folder: str | Path,
    *,
    title: str,
    intended_use: str,
    data: Sequence[DataLine] = (),
    training: str = "",
    results: Sequence[ResultTable] = (),
    limits: str = "",
    licence: str = UNKNOWN_LICENCE,
    load_as: str = "",
) -> str:
    """Write the model card of a folder, as the text of a `README.md`.

    Sizes, format and origin are read from the folder; scores only from `results`.
    """
    folder = Path(folder)
    config = load_config_file(folder)
    name, head = load_as or folder.name, config.head
    parts = [
        _front_matter(config, licence=licence, results=results),
        f"# {title}",
        intended_use,
        _section("Use", _example(name, head)),
        _section("Model", _description(folder, config)),
    ]
    if head is not None:
        parts.append(_section("Classes", _classes(head)))
    if data:
        lines = [[line.name, line.size, line.terms] for line in data]
        parts.append(_section("Data", table(["source", "used", "terms"], lines)))
    if training:
        parts.append(_section("Training", training))
    if results:
        parts.append(_section("Results", "\n\n".join(map(_result, results))))
    if limits:
        parts.append(_section("Limits", limits))
    return "\n\n".join(parts) + "\n"


def licence_of(folder: Path) -> str:
    """Read the licence from the model card in a folder; empty if there is none."""
    try:
        _, front, _ = (folder / CARD_FILE).read_text(encoding="utf-8").split("---\n", 2)
        stated = yaml.safe_load(front)
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    return str(stated.get("license") or "") if isinstance(stated, dict) else ""


def results_of(path: str | Path, *, of: str) -> list[ResultTable]:
    """Read the scores of a report of `coca evaluate --out`."""
    path = Path(path)
    if path.is_dir():
        path /= "report.json"
    try:
        content = read_json(path)
        found, tables = content["fingerprint"], [_scores(task) for task in content["tasks"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} has no scores of `coca evaluate --out`: {error}") from None
    if found != of:
        raise ModelError(f"{path} contains scores of the model {found}, not of {of}")
    return tables


def _scores(task: dict[str, Any]) -> ResultTable:
    intervals = {name: (low, high) for name, (low, high) in task.get("intervals", {}).items()}
    record = task["record"]
    machine = record["machine"]
    note = f"{record['started'][:10]}, {machine['cores']} cores of {machine['cpu']}"
    code = record["code"]
    if code is not None:
        note += f", {commit_shown(code)}"
    # A path of this machine is not a name.
    name = task["config"]["data"]["name"]
    of = f" of {name}" if name else ""
    return ResultTable(
        f"{task['task']} on {task['samples']:,} samples{of}",
        SCORE_COLUMNS,
        score_rows(task["metrics"], intervals),
        note,
    )


def _pipeline(head: HeadConfig | None) -> str:
    """Return the hub's name of the model's task."""
    if head is None:
        return "image-to-text"
    return "visual-question-answering" if head.reads == "text" else "image-classification"


def _front_matter(config: ModelConfig, *, licence: str, results: Sequence[ResultTable]) -> str:
    openclip = isinstance(config, OpenCLIPConfig)
    content: dict[str, Any] = {
        "license": licence,
        "library_name": "coca-captioners",
        "pipeline_tag": _pipeline(config.head),
        "tags": [*_TAGS, *(["open_clip"] if openclip else [])],
    }
    metrics = list(dict.fromkeys(row[0] for one in results for row in one.rows))
    if metrics:
        content["metrics"] = metrics
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---"


def _example(name: str, head: HeadConfig | None) -> str:
    """Return a program that uses the model, first of all its head."""
    lines = ["import coca", "", f'model = coca.load("{name}")']
    if head is None:
        lines += [
            'images = model.embed_images(["cat.jpg"])',
            'print(images @ model.embed_texts(["a cat", "a dog"]).T)',
            'print(model.caption("cat.jpg"))',
        ]
    elif head.images_per_sample > 1:
        images = [f"{number}.jpg" for number in range(1, head.images_per_sample + 1)]
        texts = ', ["both show a dog"]' if head.reads == "text" else ""
        lines.append(f"print(model.answer([{json.dumps(images)}]{texts})[0][0])")
    elif head.reads == "text":
        lines.append('print(model.answer(["photo.jpg"], ["what is this?"])[0][0])')
    else:
        lines.append('print(model.classify(["photo.jpg"])[0][0])')
    program = "\n".join(lines)
    example = f"```python\n{program}\n```"
    if head is not None and head.reads == "image" and head.images_per_sample == 1:
        example += f"\n\n```sh\ncoca classify photo.jpg --model {name}\n```"
    return example


def _classes(head: HeadConfig) -> str:
    """List the classes of a head, as many as a reader takes in."""
    shown = ", ".join(f"`{name}`" for name in head.classes[:_SHOWN_CLASSES])
    more = len(head.classes) - _SHOWN_CLASSES
    text = f"The head chooses among {len(head.classes):,}: {shown}"
    return f"{text} and {more:,} more; `model.classes` has all." if more > 0 else f"{text}."


def _description(folder: Path, config: ModelConfig) -> str:
    processor = Processor.load(folder)
    counts = count_parameters(config)
    weights = (folder / WEIGHTS_FILE).stat().st_size
    architecture = (
        "OpenCLIP's CoCa" if isinstance(config, OpenCLIPConfig) else "Contrastive Captioner (CoCa)"
    )
    rows = [
        ["architecture", architecture],
        ["parameters", f"{counts['total']:,}"],
        ["weights", f"{weights / 1e6:,.1f} MB"],
        ["images", f"{processor.image_config.image_size} px"],
        ["captions", f"up to {processor.context_length} tokens"],
        ["vocabulary", f"{processor.tokenizer.vocab_size:,} pieces"],
        *_caption_words(processor),
        ["vectors", f"{config.embed_dim} numbers"],
        ["fingerprint", f"`{fingerprint(folder)}`"],
    ]
    if (head := config.head) is not None:
        several = f", {head.images_per_sample} a sample" if head.images_per_sample > 1 else ""
        reads = "images and a text" if head.reads == "text" else "images"
        rows.append(["head", f"{len(head.classes):,} classes; reads {reads}{several}"])
    origin = folder / SOURCE_FILE
    if origin.exists():
        known = read_json(origin)
        rows += [[name, f"`{known[name]}`"] for name in ("source", "sha256") if name in known]
    return table(["part", "value"], rows)


def _caption_words(processor: Processor) -> list[list[str]]:
    """Return the row of the list of words; none without a list."""
    if (words := processor.caption_words) is None:
        return []
    return [["words of captions", f"{len(words.words):,}, {len(words.withheld)} of them withheld"]]


def _result(result: ResultTable) -> str:
    text = f"{result.title}\n\n{table(result.columns, result.rows)}"
    return f"{text}\n\n{result.note}" if result.note else text


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"

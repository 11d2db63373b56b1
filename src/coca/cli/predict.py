"""Commands `coca embed`, `coca classify` and `coca info`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coca.cli import defaults, images
from coca.cli.class_names import lines_of, read_names
from coca.cli.console import Console, Json
from coca.core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from coca.inference.predictor import Predictor
    from coca.runtime.labels import Prediction

SHOWN_LABELS = 3


class By(StrEnum):
    """Method that compares labels with an image."""

    similarity = "similarity"
    likelihood = "likelihood"


def embed(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help="Images, videos, folders of images, or quoted glob patterns.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help="Text to embed; may be repeated.", show_default=False),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="NumPy file (.npy) for the embeddings, one per row, float32."
        ),
    ] = Path("embeddings.npy"),
    model: defaults.Model = None,
    device: defaults.Device = None,
    as_json: Json = False,
) -> None:
    """Embed images and videos, then texts, into unit vectors of one space.

    The dot product of two rows is their cosine similarity. Row n belongs to the n-th readable
    image or text.
    """
    import io

    import numpy as np

    from coca.core.files import write_atomic

    console = Console.current(json=as_json)
    paths, texts = images.find(files or [], videos=True), list(text or [])
    if not paths and not texts:
        raise ConfigError("there is nothing to embed: name images, or give --text")
    from coca.inference.video import embed_files

    predictor = defaults.load_model(model, device)
    outcomes: list[Any] = images.work_through(
        paths,
        lambda batch: list(embed_files(predictor, batch)),
        batch_size=predictor.batch_size,
        title="embedding images",
        progress=console.progress,
    )
    rows = [row for row in outcomes if not isinstance(row, images.Bad)]
    items: list[dict[str, Any]] = [
        outcome.to_json() if isinstance(outcome, images.Bad) else {"path": path}
        for path, outcome in zip(paths, outcomes, strict=True)
    ]
    if texts:
        rows += list(predictor.embed_texts(texts, progress=console.progress))
        items += [{"text": one} for one in texts]
    if rows:
        stream = io.BytesIO()
        np.save(stream, np.stack(rows).astype(np.float32, copy=False), allow_pickle=False)
        write_atomic(out, stream.getvalue())
        console.say(f"{len(rows)} vectors of {predictor.embed_dim} numbers are in {out}")
    console.emit(
        {
            "out": str(out) if rows else None,
            "rows": len(rows),
            "dim": predictor.embed_dim,
            "fingerprint": predictor.fingerprint,
            "items": items,
        }
    )
    images.end_with(console, outcomes)


def classify(
    files: images.Files,
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            "-l",
            metavar="LABELS|FILE",
            help="Labels to choose from: a,b,c, or a text file with one label per line; default: "
            "the classes of a fine-tuned model.",
            show_default=False,
        ),
    ] = "",
    labels_file: Annotated[
        Path | None,
        typer.Option("--labels-file", help="File with one label per line.", show_default=False),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts",
            help="Prompt set (photo, drawing, clip, plain), or a template such as 'a photo of {}'.",
        ),
    ] = "plain",
    by: Annotated[
        By,
        typer.Option(
            "--by",
            help="Rank labels by embedding similarity, or by the likelihood of their prompts.",
        ),
    ] = By.similarity,
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            min=1,
            help=f"Number of labels per image; default: {SHOWN_LABELS}, with --json all.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str,
        typer.Option(
            "--classes",
            help="Collection of class embeddings to choose from; `coca classes add` fills it.",
            show_default=False,
        ),
    ] = "",
    uri: defaults.Uri = None,
    token: defaults.Token = "",
    model: defaults.Model = None,
    device: defaults.Device = None,
    as_json: Json = False,
) -> None:
    """Classify images: zero-shot among any labels, or by the head of a fine-tuned model."""
    console = Console.current(json=as_json)
    choices = _labels(labels, labels_file)
    paths = images.find(files, videos=True)
    from coca.inference.prompts import prompts_named
    from coca.inference.video import classify_files

    templates = prompts_named(prompts)
    if classes and choices:
        raise ConfigError("labels come from --labels or from --classes: leave one of them out")
    if not choices and (prompts != "plain" or by != By.similarity):
        raise ConfigError(
            "--prompts and --by need --labels, and none are given: classes of a collection use "
            "the prompts of `coca classes add --prompts`, classes of a head use none"
        )
    if classes:
        from coca.workflows.collections.class_prompts import find_classes

        # Errors of the collection are raised before a model is loaded.
        found = find_classes(defaults.index_uri(uri), classes, token=token)
        model = defaults.model_to_fill(model, found, defaults.Runtimes.torch)
    predictor = defaults.load_model(model, device)
    if not choices and not classes and not predictor.classes:
        raise ConfigError("there is no label to choose from: give --labels a,b,c or --labels-file")
    with ExitStack() as opened:
        if classes:
            place = defaults.index_uri(uri)
            work = opened.enter_context(_by_collection(predictor, place, classes, token))
        else:

            def work(batch: Sequence[str]) -> Sequence[list["Prediction"]]:
                return classify_files(predictor, batch, choices, templates=templates, by=by.value)

        outcomes = images.work_through(
            paths,
            work,
            batch_size=predictor.batch_size,
            title="classifying",
            progress=console.progress,
        )
    images.print_outcomes(
        console,
        paths,
        outcomes,
        columns=["labels", "path"],
        rows=lambda path, labels: [[_shown(labels[: top or SHOWN_LABELS]), path]],
        entry=lambda labels: {
            "predictions": [
                {"label": one.label, "probability": one.probability}
                for one in labels[: top or None]
            ]
        },
    )


@contextmanager
def _by_collection(
    predictor: "Predictor", uri: str, collection: str, token: str
) -> Iterator[Callable[[Sequence[str]], Sequence[list["Prediction"]]]]:
    from coca.search.mining.zero_shot import read_classes
    from coca.workflows.collections.class_prompts import classify_by, open_classes

    with open_classes(predictor, uri, collection, token=token) as index:
        # In memory, so that no class is missed, whatever their number.
        labels, vectors = read_classes(index)
    yield lambda batch: classify_by(predictor, labels, vectors, batch)


def _shown(labels: Sequence["Prediction"]) -> str:
    return ", ".join(f"{one.label} {one.probability:.0%}" for one in labels)


def info(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Preset such as coca_base, model folder or run; default: COCA_MODEL, else "
            "everyday.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the parameter count of each part of a model, without loading weights."""
    console = Console.current(json=as_json)
    if name is None:
        name = defaults.model_name(None)
    from coca.inference.loading import model_folder, shipped
    from coca.model.config import CoCaConfig
    from coca.model.openclip.config import OpenCLIPConfig
    from coca.model.pretrained import ModelConfig, load_config_file, model_description

    config: ModelConfig
    folder = Path(name)
    presets: dict[str, ModelConfig] = {**CoCaConfig.presets(), **OpenCLIPConfig.presets()}
    if name in presets and not folder.is_dir():
        config = presets[name]
    elif folder.exists() or ":" in name or name in shipped():
        config = load_config_file(model_folder(name))
    else:
        near = did_you_mean(name, [*presets, *shipped()])
        raise ConfigError(f"{name!r} is neither a preset nor a folder; {near}")
    description = model_description(config)
    counts = description["parameters"]
    console.table(
        ["part", "parameters"],
        [[part.replace("_", " "), f"{count:,}"] for part, count in counts.items()],
        right=["parameters"],
    )
    console.say(
        f"images of {config.image.image_size} px, captions of up to "
        f"{config.text.context_length} tokens, vectors of {config.embed_dim} numbers"
    )
    console.emit(description)


def _labels(listed: str, file: Path | None) -> list[str]:
    """Merge the labels of both options, each once.

    Raises:
        ConfigError: The file cannot be read.
    """
    return list(dict.fromkeys([*read_names(listed), *(lines_of(file) if file else [])]))

"""Command `coca classify`: classify images zero-shot, or by the head of a model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from coca.cli.console import Console, shows_progress, to_try
from coca.cli.options import defaults, images
from coca.core.errors import ConfigError

if TYPE_CHECKING:
    from coca.predict.inputs import Prediction
    from coca.predict.predictor import Predictor

SHOWN_LABELS = 3


class By(StrEnum):
    """Method that compares labels with an image."""

    similarity = "similarity"
    likelihood = "likelihood"


@shows_progress
def classify(
    files: images.Files,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels",
            "-l",
            metavar="LABELS|FILE",
            help="Labels to choose from: a,b,c, or a text file with one label per line; may be "
            "repeated; default: the classes of a fine-tuned model.",
        ),
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
            help=f"Number of labels per image; default: {SHOWN_LABELS}, with --json and --out all.",
        ),
    ] = None,
    classes: Annotated[
        str,
        typer.Option(
            "--classes",
            help="Collection of class embeddings to choose from; `coca classes add` fills it.",
        ),
    ] = "",
    out: images.Out = None,
    uri: defaults.Uri = None,
    token: defaults.Token = "",
    model: defaults.Model = None,
    *,
    execution: defaults.Run,
    console: Console,
) -> None:
    """Classify images: zero-shot among any labels, or by the head of a fine-tuned model.

    With --out FILE, each label of an image is a row: path, rank, label, probability.
    """
    if out is not None:
        images.check_out(out)
    choices = list(dict.fromkeys(name for one in labels or [] for name in images.read_names(one)))
    if not choices and not classes and (words := images.find_words(files)):
        others = [file for file in files if file not in words]
        command = to_try("classify", *others, "--labels", ",".join(words))
        raise ConfigError(f"{words[0]} does not exist; if it is a label: {command}")
    paths = images.find(files, videos=True)
    from coca.predict.prompts import prompts_named
    from coca.predict.video import classify_files

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
        model = defaults.model_to_fill(model, found)
    predictor = defaults.load_model(model, execution)
    if not choices and not classes and not predictor.classes:
        raise ConfigError("there is no label to choose from: give --labels a,b,c or --labels FILE")
    with ExitStack() as opened:
        if classes:
            uri = defaults.index_uri(uri)
            work = opened.enter_context(_by_collection(predictor, uri, classes, token))
        else:

            def work(batch: Sequence[str]) -> Sequence[list["Prediction"]]:
                return classify_files(predictor, batch, choices, templates=templates, by=by.value)

        outcomes = images.work_through(
            paths,
            work,
            batch_size=predictor.batch_size,
            title="classifying",
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
        out=out,
        records=lambda labels: [
            {"rank": rank, "label": one.label, "probability": one.probability}
            for rank, one in enumerate(labels[: top or None], start=1)
        ],
    )


@contextmanager
def _by_collection(
    predictor: "Predictor", uri: str, collection: str, token: str
) -> Iterator[Callable[[Sequence[str]], Sequence[list["Prediction"]]]]:
    from coca.search.mining.zero_shot import read_classes
    from coca.workflows.collections.class_prompts import classify_by, open_classes

    with open_classes(predictor, uri, collection, token=token) as opened:
        # In memory, so that no class is missed, however many there are.
        labels, vectors = read_classes(opened)
    yield lambda batch: classify_by(predictor, labels, vectors, batch)


def _shown(labels: Sequence["Prediction"]) -> str:
    return ", ".join(f"{one.label} {one.probability:.0%}" for one in labels)

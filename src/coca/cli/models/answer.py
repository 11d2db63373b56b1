"""Command `coca answer`: visual question answering and visual entailment."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from coca.cli.console import Console, shows_progress
from coca.cli.options import defaults, images
from coca.core.errors import ConfigError, DataError
from coca.core.progress import progress_bar

if TYPE_CHECKING:
    from coca.predict.inputs import Caption, Prediction
    from coca.predict.predictor import Predictor


@shows_progress
def answer(
    files: images.Files,
    question: Annotated[
        str,
        typer.Argument(
            metavar="QUESTION", help="Question or statement, in quotes.", show_default=False
        ),
    ],
    in_words: Annotated[
        bool,
        typer.Option(
            "--generate", "-w", help="Generate the answer as a completion; needs no head."
        ),
    ] = False,
    top: Annotated[
        int, typer.Option("--top", min=1, help="Answers per image, most probable first.")
    ] = 1,
    model: defaults.Model = None,
    *,
    execution: defaults.Run,
    console: Console,
) -> None:
    """Answer a question about each image, or judge a statement.

    A model with a head for questions (`coca finetune`) chooses among the answers of its training.
    With --generate, any model completes the question as it completes a caption. For a head that
    reads pairs, each two consecutive images form a pair.
    """
    if os.path.lexists(question):
        raise ConfigError(f"the last argument is the question, and {question} is a file")
    if not question.strip():
        raise ConfigError("the question is empty; ask something, such as 'what is this?'")
    paths = images.find(files)
    predictor = defaults.load_model(model, execution)
    if in_words:
        _write(console, predictor, paths, question, top=top)
        return
    if not predictor.answers_questions:
        found = "has a head that reads images only" if predictor.classes else "has no head"
        raise ConfigError(
            f"the model {predictor.source or model} {found}, so it answers no question; `coca "
            "finetune` adds a head for questions, and --generate lets the model complete the "
            "question like a caption"
        )
    together = predictor.images_per_sample
    if len(paths) % together:
        raise ConfigError(
            f"the model's head reads {together} images at a time, and {len(paths)} are given"
        )
    names, outcomes = _choose(predictor, paths, question, together=together)
    images.print_outcomes(
        console,
        names,
        outcomes,
        columns=["answer", "path"],
        rows=lambda name, found: [[_shown(found[:top]), name]],
        entry=lambda found: {
            "answers": [
                {"answer": one.label, "probability": one.probability} for one in found[:top]
            ]
        },
    )


def _choose(
    predictor: "Predictor", paths: list[str], question: str, *, together: int
) -> tuple[list[str], Sequence["list[Prediction] | images.Bad"]]:
    """Run the head on each image, or on each group of `together` images."""
    if together == 1:
        return paths, images.work_through(
            paths,
            lambda batch: predictor.answer(batch, [question] * len(batch)),
            batch_size=predictor.batch_size,
            title="answering",
        )
    groups = [paths[first : first + together] for first in range(0, len(paths), together)]
    outcomes: list[list[Prediction] | images.Bad] = []
    with progress_bar("answering", len(groups)) as bar:
        for group in groups:
            try:
                outcomes += predictor.answer([group], [question])
            except DataError as error:
                outcomes.append(images.Bad(", ".join(group), str(error)))
            bar.advance()
    return [", ".join(group) for group in groups], outcomes


def _write(
    console: Console,
    predictor: "Predictor",
    paths: list[str],
    question: str,
    *,
    top: int,
) -> None:
    """Generate free-form answers and print them."""

    def ask(batch: Sequence[str]) -> "list[Caption]":
        return predictor.caption(batch, prompt=question, num_return_sequences=top)

    outcomes = images.work_through(
        paths,
        ask,
        batch_size=predictor.batch_size,
        title="answering",
    )
    images.print_outcomes(
        console,
        paths,
        outcomes,
        columns=["answer", "rank score", "score", "path"],
        right=["rank score", "score"],
        rows=lambda path, best: [
            [one.completion, f"{one.rank_score:.3f}", f"{one.score:.2f}", path]
            for one in (best, *best.others)
        ],
        entry=lambda best: {
            "answers": [
                {"answer": one.completion, "score": one.score, "rank_score": one.rank_score}
                for one in (best, *best.others)
            ]
        },
    )


def _shown(found: Sequence["Prediction"]) -> str:
    return ", ".join(f"{one.label} {one.probability:.0%}" for one in found)

"""Command `coca caption`: generate captions."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coca.cli.console import Console
from coca.cli.options import defaults, images
from coca.core.config.frozen_config import load_config
from coca.runtime.generation_config import GenerationConfig

if TYPE_CHECKING:
    from coca.runtime.inputs import Caption


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
    out: images.Out = None,
    model: defaults.Model = None,
    execution: defaults.Run,
    console: Console,
) -> None:
    """Caption images and videos.

    The score is the log-likelihood of the caption, in nats: 0 is certain. Several captions of an
    image are sorted by their rank score. In beam search it is the score, less the penalties of the
    constraints, divided by (number of tokens) ** length_penalty; when sampling it is the score.
    With --out FILE, each caption is a row: path, rank, caption, score, rank_score.
    """
    config = load_config(GenerationConfig, overrides=decoding or [])
    several = config.num_return_sequences > 1
    if out is not None:
        images.check_out(out)
    paths = images.find(files, videos=True)
    from coca.inference.video import caption_files

    predictor = defaults.load_model(model, execution)
    outcomes = images.work_through(
        paths,
        lambda batch: caption_files(predictor, batch, prompt=prompt, decoding=config),
        batch_size=predictor.batch_size,
        title="captioning",
        progress=console.progress,
    )
    images.print_outcomes(
        console,
        paths,
        outcomes,
        columns=["caption", *(["rank score"] if several else []), "score", "path"],
        right=["rank score", "score"],
        rows=lambda path, best: [
            [one.text, *([f"{one.rank_score:.3f}"] if several else []), f"{one.score:.2f}", path]
            for one in (best, *best.others)
        ],
        entry=lambda best: {"captions": [_entry(one) for one in (best, *best.others)]},
        out=out,
        records=lambda best: [
            {"rank": rank, "caption": one.text, "score": one.score, "rank_score": one.rank_score}
            for rank, one in enumerate((best, *best.others), start=1)
        ],
    )


def _entry(caption: "Caption") -> dict[str, Any]:
    return {
        "text": caption.text,
        "score": caption.score,
        "rank_score": caption.rank_score,
        "token_ids": list(caption.token_ids),
        "log_probabilities": list(caption.log_probabilities),
    }

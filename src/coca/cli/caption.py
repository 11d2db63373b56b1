"""Command `coca caption`: generate captions, and draw their cross-attention maps."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coca.cli import defaults, images
from coca.cli.console import Console, Json
from coca.core.errors import ConfigError

if TYPE_CHECKING:
    from coca.inference.captioning import Caption

_CHOICE, _RULES = "Decoding", "Constraints"


class Stopping(StrEnum):
    """Stopping criterion of beam search; see `coca.model.generation.config.GenerationConfig`."""

    full = "full"
    likely = "likely"
    certain = "certain"


def caption(
    files: images.Files,
    prompt: Annotated[
        str, typer.Option("--prompt", help="Text that each caption begins with.")
    ] = "",
    num_return_sequences: Annotated[
        int,
        typer.Option("--num-return-sequences", "-n", min=1, help="Captions per image, best first."),
    ] = 1,
    explain: Annotated[
        Path | None,
        typer.Option(
            "--explain",
            metavar="PNG",
            help="Draw the cross-attention map of each word into this file; for one image.",
            show_default=False,
        ),
    ] = None,
    num_beams: Annotated[
        int | None,
        typer.Option(
            "--num-beams",
            min=1,
            help="Beams of the beam search; 1 is greedy and fastest; default: 4, none when "
            "sampling.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    length_penalty: Annotated[
        float,
        typer.Option(
            "--length-penalty",
            help="Exponent of the length normalization; 0 favours short captions, 1 ranks by "
            "the mean over tokens.",
            rich_help_panel=_CHOICE,
        ),
    ] = 1.0,
    early_stopping: Annotated[
        Stopping,
        typer.Option(
            "--early-stopping",
            help="Stop beam search once num-beams captions ended (full), no running caption ranks "
            "above them now (likely) or can at any length (certain).",
            rich_help_panel=_CHOICE,
        ),
    ] = Stopping.likely,
    num_beam_groups: Annotated[
        int,
        typer.Option(
            "--num-beam-groups",
            min=1,
            help="Groups of beams for diverse beam search.",
            rich_help_panel=_CHOICE,
        ),
    ] = 1,
    diversity_penalty: Annotated[
        float,
        typer.Option(
            "--diversity-penalty",
            min=0,
            help="Penalty on tokens that other beam groups chose, in nats.",
            rich_help_panel=_CHOICE,
        ),
    ] = 0.0,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            help="Sample tokens at this temperature; below 1 favours likely tokens.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k",
            min=1,
            help="Sample from the K most likely tokens.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p",
            help="Sample from the most likely tokens whose probabilities sum to P (nucleus).",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of sampling.", rich_help_panel=_CHOICE)
    ] = 0,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            min=1,
            help="Maximum tokens after the prompt; default: up to the model's context length.",
            show_default=False,
            rich_help_panel=_RULES,
        ),
    ] = None,
    min_new_tokens: Annotated[
        int,
        typer.Option(
            "--min-new-tokens",
            min=0,
            help="Minimum tokens after the prompt.",
            rich_help_panel=_RULES,
        ),
    ] = 0,
    repetition_penalty: Annotated[
        float,
        typer.Option(
            "--repetition-penalty",
            help="Above 1: tokens that occurred become less likely; 1: none.",
            rich_help_panel=_RULES,
        ),
    ] = 1.0,
    no_repeat_ngram_size: Annotated[
        int,
        typer.Option(
            "--no-repeat-ngram-size",
            min=0,
            help="Token n-grams of this size occur at most once; 0: no limit.",
            rich_help_panel=_RULES,
        ),
    ] = 0,
    model: defaults.Model = None,
    device: defaults.Device = None,
    as_json: Json = False,
) -> None:
    """Caption images and videos.

    The score is the log-likelihood of the caption, in nats: 0 is certain. Several captions of an
    image are sorted by their rank score. In beam search it is the score, less the penalties of the
    constraints, divided by (number of tokens) ** --length-penalty; when sampling it is the score.
    """
    from coca.model.generation.config import GenerationConfig, GenerationOptions

    options: GenerationOptions = {
        "num_beams": num_beams,
        "num_return_sequences": num_return_sequences,
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping.value,
        "num_beam_groups": num_beam_groups,
        "diversity_penalty": diversity_penalty,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
    }
    GenerationConfig(**options)  # invalid options fail here, before a model is loaded
    console = Console.current(json=as_json)
    paths = images.find(files, videos=True)
    if explain is not None and len(paths) != 1:
        raise ConfigError(f"--explain draws one image, and {len(paths)} are given")
    from coca.inference.video import caption_files

    predictor = defaults.load_model(model, device)
    outcomes = images.work_through(
        paths,
        lambda batch: caption_files(predictor, batch, prompt=prompt, **options),
        batch_size=predictor.batch_size,
        title="captioning",
        progress=console.progress,
    )
    if explain is not None:
        from coca.core.files import write_atomic
        from coca.inference.attention import draw_word_maps, explain_caption

        (outcome,) = outcomes
        if not isinstance(outcome, images.Bad):
            maps = explain_caption(predictor, paths[0], caption=outcome, prompt=prompt)
            write_atomic(explain, draw_word_maps(maps))
            console.say(f"cross-attention maps: {explain}")
    images.print_outcomes(
        console,
        paths,
        outcomes,
        columns=["caption", *(["rank score"] if num_return_sequences > 1 else []), "score", "path"],
        right=["rank score", "score"],
        rows=lambda path, best: [
            [
                one.text,
                *([f"{one.rank_score:.3f}"] if num_return_sequences > 1 else []),
                f"{one.score:.2f}",
                path,
            ]
            for one in (best, *best.others)
        ],
        entry=lambda best: {"captions": [_entry(one) for one in (best, *best.others)]},
    )


def _entry(caption: "Caption") -> dict[str, Any]:
    return {
        "text": caption.text,
        "score": caption.score,
        "rank_score": caption.rank_score,
        "token_ids": list(caption.token_ids),
        "log_probabilities": list(caption.log_probabilities),
    }

"""Captions of images, and images of what their words looked at."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coca.cli import defaults, images
from coca.cli.console import Console, Json
from coca.core.errors import ConfigError

if TYPE_CHECKING:
    from coca.inference.captioning import Caption

_CHOICE, _RULES = "How words are chosen", "What captions must be like"


class Stopping(StrEnum):
    """When a search ends; see `coca.model.generation.config.GenerationConfig`."""

    full = "full"
    likely = "likely"
    certain = "certain"


def caption(
    files: images.Files,
    prompt: Annotated[
        str, typer.Option("--prompt", help="Words that each caption begins with.")
    ] = "",
    num_return_sequences: Annotated[
        int,
        typer.Option("--num-return-sequences", "-n", min=1, help="Captions an image, best first."),
    ] = 1,
    explain: Annotated[
        Path | None,
        typer.Option(
            "--explain",
            metavar="PNG",
            help="Draw what each word looked at, for one image, into this file.",
            show_default=False,
        ),
    ] = None,
    num_beams: Annotated[
        int | None,
        typer.Option(
            "--num-beams",
            min=1,
            help="Captions kept while searching; 1 is the fastest; default: 4, none when drawing.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    length_penalty: Annotated[
        float,
        typer.Option(
            "--length-penalty",
            help="0 prefers short captions, 1 compares by the mean over words.",
            rich_help_panel=_CHOICE,
        ),
    ] = 1.0,
    early_stopping: Annotated[
        Stopping,
        typer.Option(
            "--early-stopping",
            help="End a search when it is full, likely or certain that no better caption comes.",
            rich_help_panel=_CHOICE,
        ),
    ] = Stopping.likely,
    num_beam_groups: Annotated[
        int,
        typer.Option(
            "--num-beam-groups",
            min=1,
            help="Groups of beams that write different things.",
            rich_help_panel=_CHOICE,
        ),
    ] = 1,
    diversity_penalty: Annotated[
        float,
        typer.Option(
            "--diversity-penalty",
            min=0,
            help="How much groups avoid each other's words, in nats.",
            rich_help_panel=_CHOICE,
        ),
    ] = 0.0,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            help="Draw words by chance; below 1 favours likely ones.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k",
            min=1,
            help="Draw from so many likeliest words.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p",
            help="Draw from the likeliest words that hold this much probability.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Start of chance.", rich_help_panel=_CHOICE)
    ] = 0,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            min=1,
            help="Most pieces of words behind the prompt; default: what the model can hold.",
            show_default=False,
            rich_help_panel=_RULES,
        ),
    ] = None,
    min_new_tokens: Annotated[
        int,
        typer.Option(
            "--min-new-tokens",
            min=0,
            help="Pieces of words before a caption may end.",
            rich_help_panel=_RULES,
        ),
    ] = 0,
    repetition_penalty: Annotated[
        float,
        typer.Option(
            "--repetition-penalty",
            help="Above 1: words that occurred become less likely.",
            rich_help_panel=_RULES,
        ),
    ] = 1.0,
    no_repeat_ngram_size: Annotated[
        int,
        typer.Option(
            "--no-repeat-ngram-size",
            min=0,
            help="Length of a run of pieces that may occur only once; 0: any may.",
            rich_help_panel=_RULES,
        ),
    ] = 0,
    model: defaults.Model = None,
    device: defaults.Device = None,
    as_json: Json = False,
) -> None:
    """Describe images in words.

    The score is the natural logarithm of the caption's probability: 0 is certain. Several captions
    of an image are sorted by their rank score: the score, less the penalties of the rules, divided
    by the number of tokens to the power of --length-penalty; the score where words are drawn.
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
    GenerationConfig(**options)  # a wrong call ends here, before a model is loaded
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
            console.say(f"what the words looked at is in {explain}")
    images.tell(
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

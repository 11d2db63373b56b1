"""Commands `coca data`: tokenizer, tar index, feature cache."""

from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console, shows_progress
from coca.cli.options.option_groups import Commands
from coca.core.progress import progress_bar

app = Commands(help="Prepare data: train a tokenizer, index tars, cache features.")


@app.command()
@shows_progress
def tokenizer(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", help="Folders, manifests (jsonl, csv, parquet), tars."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")] = Path(
        "tokenizer.json"
    ),
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", min=261, help="Maximum number of tokens.")
    ] = 16_000,
    *,
    console: Console,
) -> None:
    """Train a tokenizer on captions; the same captions give the same file.

    `coca pretrain` trains one by itself, with the settings `tokenizer` of a recipe. Use this
    command to share a tokenizer between runs (tokenizer.path).
    """
    from coca.data.sources.factory import config_class_of, open_source
    from coca.workflows.training.pretrain_data import TokenizerConfig, train_tokenizer

    configs = [config_class_of(path)(path=path) for path in sources]
    made = train_tokenizer(
        [(config, open_source(config)) for config in configs],
        vocab_size=vocab_size,
        config=TokenizerConfig(),
    )
    made.save(out)
    console.say(f"a tokenizer of {made.vocab_size} pieces is in {out}")
    console.emit({"out": str(out), "vocab_size": made.vocab_size})


@app.command()
@shows_progress
def index(
    tars: Annotated[
        list[str],
        typer.Argument(
            metavar="TARS", help="Tars, folders of tars, or patterns with * and {0000..0099}."
        ),
    ],
    index_folder: Annotated[
        str,
        typer.Option(
            "--index-folder", help="Folder or URL for the indexes; default: next to the tars."
        ),
    ] = "",
    checksums: Annotated[
        bool,
        typer.Option(
            "--checksums",
            help="Read the tars whole for checksums, which samples are then verified by.",
        ),
    ] = False,
    *,
    console: Console,
) -> None:
    """Index WebDataset tars; this also detects truncated tars before a run.

    A run creates missing indexes by itself; this command creates them in advance, with a process
    for each core. Only the headers are read.
    """
    from coca.data.sources.tar.index import index_tars
    from coca.data.storage.storage import Storage

    paths = Storage().find(tars, suffix=".tar")
    samples = 0
    with progress_bar("indexing tars", len(paths)) as bar:
        for count in index_tars(paths, folder=index_folder, checksums=checksums):
            samples += count
            bar.advance(1, samples=samples)
    where = f"in {index_folder}" if index_folder else "next to the tars, or in the user's cache"
    console.say(f"{len(paths)} tars contain {samples:,} samples; their indexes are {where}")
    console.emit({"tars": len(paths), "samples": samples})


@app.command()
@shows_progress
def features(
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|FIELD=VALUE",
            help="The recipe of `coca pretrain`, with data.features.folder, and overrides.",
        ),
    ],
    console: Console,
) -> None:
    """Compute the features of a frozen image encoder once, for all epochs of a run.

    An interrupted computation continues where it stopped. `coca pretrain` computes missing features
    by itself.
    """
    from coca.cli.options.recipes import Settings, load
    from coca.workflows.training.pretrain import PretrainConfig, compute_features

    given = Settings.of(settings, folder="pretrain")
    config = load(PretrainConfig, given, find_data=True)
    files = compute_features(config)
    for file in files:
        key = file.key
        console.say(
            f"{file.path} contains {key.rows:,} images, {key.views} views of {key.tokens} x "
            f"{key.width} features each, {key.total_bytes / 1e6:,.0f} MB"
        )
    console.emit({"files": [{"path": str(it.path), "bytes": it.key.total_bytes} for it in files]})

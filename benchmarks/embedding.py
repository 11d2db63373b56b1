"""Embedding throughput of OpenCLIP's CoCa against the same model here: texts and JPEG files.

    python benchmarks/embedding.py texts
    python benchmarks/embedding.py images --count 128
    python benchmarks/embedding.py small --count 1024 --photos 'photos/*.jpg'

`texts` are captions of 12 tokens on average for `coca_ViT-B-32`, in batches of 64. `images` are
files of 640 x 480 pixels. The peer reads them with a DataLoader of two workers and its own
preprocessing; here `Predictor.embed_images` does both. `small` uses a model of the size of the
packaged one, where decoding is the bottleneck. Without `--photos` the files are collages of the
thumbnails of Flickr8k. All contestants have the same random weights.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from options import run
from peer import SMALL, captions, peer_model
from PIL import Image
from sample_data import VAL, make_photos
from side_by_side import Rounds, emit, figure, in_turn, own_seconds, ratio, table, write_report
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
    model = OpenCLIP(replace(config, class_mask=class_mask))
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


def our_images(
    dtype: torch.dtype,
    *,
    small: bool,
    reduced: bool = True,
    compiled: bool = False,
    int8: bool = False,
) -> Embed:
    from coca.inference.predictor import Predictor
    from coca.processing.image import ImageConfig, ImageTransform
    from coca.processing.processor import Processor
    from coca.processing.tokenizer import Tokenizer

    model = our_model(small=small)
    if int8:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model.image_encoder, Int8DynamicActivationInt8WeightConfig())
    model = model.to(dtype)
    if compiled:
        # Lets the compiler prepack the weights once.
        torch._inductor.config.freezing = True
        model.encode_image = torch.compile(model.encode_image)  # type: ignore[method-assign]
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
    predictor = Predictor(model, processor, fingerprint="", batch_size=BATCH, prepack=True)
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
        "bf16-compiled": ("that in bf16, compiled", here(BF16, compiled=True)),
        "int8-compiled": ("that with int8 encoder, compiled", here(FP32, int8=True, compiled=True)),
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
}
TITLES = {
    "texts": "Text embeddings, coca_ViT-B-32, captions of about 12 tokens",
    "images": "Image embeddings from JPEG files, coca_ViT-B-32",
    "small": "Image embeddings from JPEG files, a small model (64 px, 4 layers of 192)",
}
PER_S = {"texts": "captions/s", "images": "images/s", "small": "images/s"}


QUICK = {"count": 128, "only": ["peer", "here", "bf16"], "rounds": 1}
UNITS = {"per_s": "items/s", "per_own_s": "items per processor s"}


def contestant(arguments: argparse.Namespace) -> None:
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
    known = CONTESTANTS[what]
    names = arguments.only or [name for name in known if "compiled" not in name]
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
        packages=("torch", "open_clip_torch", "torchvision", "pillow", "torchao"),
    )
    return rounds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", default="texts", choices=list(CONTESTANTS))
    parser.add_argument("--count", type=int, default=256, help="texts or images (default 256)")
    parser.add_argument("--only", nargs="+", help="contestants to run")
    parser.add_argument("--photos", default=VAL, help="*.jpg, or shards to make photos of")
    parser.add_argument("--folder", type=Path, help="shared folder; used by the script itself")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)

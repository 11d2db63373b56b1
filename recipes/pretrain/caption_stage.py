"""Train the captions of `everyday` on CIDEr, with all else frozen.

    python recipes/pretrain/caption_stage.py runs/everyday/closed runs/everyday/captioned \
        --data runs/everyday-data

Cross entropy teaches each next word of a human caption, but a caption is judged as a whole. In
self-critical training (Rennie et al. 2017, arXiv 1612.00563) the model samples captions of a photo,
and those with a higher CIDEr-D than the others become more probable. The baseline of a sample is
the mean of the other samples (Luo 2020, arXiv 2003.09971). The paper trains without it.

Only the multimodal decoder is trained, so no embedding changes, and images are encoded once. The
photos are those of Flickr8k, with their mirror images. Names of single things and of drawings are
trained with them by cross entropy, with a small weight.

Dimensions: N images, S image tokens of width C, B captions, T tokens.
"""

import argparse
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coca.core.progress import progress_bar, show_progress
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source
from coca.data.sources.tar.shards import ShardsConfig
from coca.metrics.caption_metrics import CiderD, words
from coca.model.coca import CoCa
from coca.model.generation.generate import generate
from coca.model.generation.generation_config import GenerationConfig
from coca.model.pretrained import save_model
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.processing.processor import Processor

STEPS, RATE, WARM_UP = 300, 6e-5, 10
"""Steps, and the largest learning rate of Adam: it rises for `WARM_UP` steps, stays for half of
the stage, and falls to 0."""
PHOTOS, SAMPLES, NEW_TOKENS = 48, 5, 22
"""Photos of a step, captions sampled of each, and their maximum length in tokens."""
NAMED, NAMED_WEIGHT = 16, 0.03
"""Single things and drawings of a step, 16 of each, and the weight of their cross entropy."""
DRAWINGS = 2500
"""Drawings that are read, drawn from all."""
BLEND = 0.3
"""Weights are written this far on the line from those before to those after the stage (Wortsman et
al. 2021, arXiv 2109.01903); chosen on development data, see benchmarks/lab-notes.md."""


@dataclass(frozen=True)
class ImageCaptions:
    """Encoded images and their captions."""

    tokens: Float[Tensor, "N S C"]
    """Image tokens of the decoder, in half precision."""
    captions: Sequence[Sequence[str]]
    """Captions of each image."""

    def image_tokens(self, rows: Sequence[int]) -> Float[Tensor, "B S C"]:
        """Select images."""
        return self.tokens[torch.tensor(rows)].float()


@torch.inference_mode()
def read_images(
    sources: Sequence[Source],
    predictor: TorchPredictor,
    *,
    count: int | None = None,
    mirrored: bool = False,
    seed: int = 0,
    batch_size: int = 32,
) -> ImageCaptions:
    """Encode the images of sources.

    Args:
        sources: The images.
        predictor: The model.
        count: Number of images to draw. Default: all.
        mirrored: Append the mirror images, in the same order.
        seed: Seed of the draw.
        batch_size: Images at a time.
    """
    listed = [(source, row) for source in sources for row in range(len(source))]
    if count is not None:
        drawn = np.random.default_rng(seed).permutation(len(listed))[:count]
        listed = [listed[int(number)] for number in np.sort(drawn)]
    plain, mirror, captions = [], [], []
    with progress_bar("encoding images", len(listed)) as bar:
        for start in range(0, len(listed), batch_size):
            samples = [source.read(row) for source, row in listed[start : start + batch_size]]
            pixels = predictor.processor.images([it.image for it in samples])
            plain.append(predictor.model.image_tokens(pixels).half())
            if mirrored:
                mirror.append(predictor.model.image_tokens(pixels.flip(-1)).half())
            captions += [sample.captions for sample in samples]
            bar.advance(len(samples))
    return ImageCaptions(torch.cat([*plain, *mirror]), captions * (2 if mirrored else 1))


def log_probabilities(
    model: CoCa, tokens: Int[Tensor, "B T"], image_tokens: Float[Tensor, "B S C"]
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """Compute the log-probability of each caption in nats, and its number of labels."""
    decoded = model.decode(tokens, image_tokens)
    states, targets = decoded.labelled()
    counts = decoded.real[:, :-1].sum(dim=1)
    losses = F.cross_entropy(F.linear(states, model.vocabulary_weight), targets, reduction="none")
    owners = torch.arange(len(tokens)).repeat_interleave(counts)
    return torch.zeros(len(tokens)).index_add(0, owners, -losses), counts


def advantages(rewards: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N K"]:
    """Subtract from the reward of each sample the mean of the other samples of its image."""
    others = (rewards.sum(axis=1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


@torch.no_grad()
def blend_(module: nn.Module, before: Mapping[str, Tensor], share: float) -> None:
    """Move weights to a point between those before, at 0, and the present ones, at 1."""
    for name, weights in module.named_parameters():
        weights.copy_(before[name].lerp(weights, share))


class CaptionStage:
    """The stage: a model, what it is trained on, and one step after another."""

    def __init__(
        self,
        model: CoCa,
        processor: Processor,
        photos: ImageCaptions,
        named: Sequence[ImageCaptions],
        *,
        steps: int = STEPS,
        rate: float = RATE,
        seed: int = 0,
    ) -> None:
        """Freeze all but the multimodal decoder.

        Args:
            model: The model, trained in place.
            processor: Its processor.
            photos: Photos, whose captions are the references of CIDEr.
            named: Images trained with cross entropy.
            steps: Number of steps.
            rate: Largest learning rate.
            seed: Seed of all draws.
        """
        self._model, self._processor = model.eval().requires_grad_(False), processor
        self._photos, self._named, self._seed = photos, named, seed
        self._random = np.random.default_rng(seed)
        references = [[words(it) for it in captions] for captions in photos.captions]
        self._cider = CiderD(references)
        self._order: Iterator[int] = iter(())
        self._learned = list(model.multimodal_decoder.requires_grad_(True).parameters())
        self._optimizer = torch.optim.Adam(self._learned, lr=rate, betas=(0.9, 0.98))
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda step: min((step + 1) / WARM_UP, 1, 2 * (1 - step / steps)),
        )
        self._steps = steps

    def run(self) -> Iterator[float]:
        """Take all steps, and yield the mean CIDEr of the samples of each."""
        for step in range(self._steps):
            rows = self._next_photos()
            image_tokens = self._photos.image_tokens(rows)
            sampled = generate(
                self._model,
                image_tokens,
                decoding=GenerationConfig(
                    temperature=1,
                    num_return_sequences=SAMPLES,
                    max_new_tokens=NEW_TOKENS,
                    words="any",
                    seed=self._seed * self._steps + step,
                ),
                images=rows,
            )
            captions = [[it.token_ids for it in samples] for samples in sampled]
            rewards = np.array(
                [
                    [
                        self._cider.score(row, words(self._processor.tokenizer.decode(ids)))
                        for ids in own
                    ]
                    for row, own in zip(rows, captions, strict=True)
                ]
            )
            tokens = self._framed([ids for own in captions for ids in own])
            repeated = image_tokens.repeat_interleave(SAMPLES, dim=0)
            found, counts = log_probabilities(self._model, tokens, repeated)
            weights = torch.from_numpy(advantages(rewards)).float().flatten()
            loss = -(weights * found).sum() / counts.sum()
            for images in self._named:
                loss = loss + NAMED_WEIGHT * self._cross_entropy(images)

            self._optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self._learned, 1.0)
            self._optimizer.step()
            self._schedule.step()
            yield float(rewards.mean())

    def _next_photos(self) -> list[int]:
        """Return the next photos of an endless random order."""
        rows: list[int] = []
        while len(rows) < PHOTOS:
            if (row := next(self._order, None)) is None:
                self._order = iter(self._random.permutation(len(self._photos.captions)).tolist())
            else:
                rows.append(row)
        return rows

    def _cross_entropy(self, images: ImageCaptions) -> Float[Tensor, ""]:
        """Compute the cross entropy of a caption of each of some images, nats a label."""
        rows = self._random.integers(len(images.captions), size=NAMED).tolist()
        captions = [str(self._random.choice(images.captions[row])) for row in rows]
        tokens = self._processor.texts(captions)
        found, counts = log_probabilities(self._model, tokens, images.image_tokens(rows))
        return -found.sum() / counts.sum()

    def _framed(self, captions: Sequence[Sequence[int]]) -> Int[Tensor, "B T"]:
        """Put special tokens around generated tokens."""
        text = self._model.config.text
        longest = max(map(len, captions)) + 3
        tokens = torch.full((len(captions), longest), text.pad_id)
        for row, ids in zip(tokens, captions, strict=True):
            row[: len(ids) + 3] = torch.tensor([text.bos_id, *ids, text.eos_id, text.cls_id])
        return tokens


def train(model: Path, out: Path, data: Path, *, seed: int) -> list[float]:
    """Write the trained model into a new folder, in half precision.

    Returns:
        The mean CIDEr of the samples of each step.
    """
    predictor = load_coca(model, device="cpu", prepack=False)

    def sources(*patterns: str) -> list[Source]:
        return [open_source(ShardsConfig(path=str(data / pattern))) for pattern in patterns]

    photos = read_images(sources("flickr8k/*.tar"), predictor, mirrored=True)
    things = read_images(sources("classes/*.tar"), predictor)
    drawings = sources("emoji/train/*.tar", "drawings/*.tar")
    drawn = read_images(drawings, predictor, count=DRAWINGS, seed=seed)
    decoder = predictor.model.multimodal_decoder
    before = {name: weights.detach().clone() for name, weights in decoder.named_parameters()}
    stage = CaptionStage(predictor.model, predictor.processor, photos, [things, drawn], seed=seed)
    rewards = []
    with progress_bar("training captions", STEPS) as bar:
        for reward in stage.run():
            rewards.append(reward)
            bar.advance(1)
    blend_(decoder, before, BLEND)
    # Graphs of the model before, and their manifest, would be wrong for the new weights.
    shutil.copytree(model, out, ignore=shutil.ignore_patterns("*.onnx", "manifest.json"))
    save_model(out, predictor.model, dtype=torch.float16)
    return rewards


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the model that the arguments of the command line describe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--data", type=Path, required=True, help="data of make_everyday.py")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    given = parser.parse_args(arguments)
    with show_progress():
        rewards = train(given.model, given.out, given.data, seed=given.seed)
    first, last = (float(np.mean(part)) for part in (rewards[:20], rewards[-20:]))
    print(f"the CIDEr of samples rose from {first:.3f} to {last:.3f}; {given.out}")


if __name__ == "__main__":
    main()

"""Small captioners on cached features of photos, for scaling_study.py and joint_study.py.

The image encoder is EfficientNet-Lite0 with ImageNet weights, frozen, as in
recipes/pretrain/frozen_encoder.yaml. Its features are computed once, without augmentation. All
features are in memory, so a step costs what the text side costs.

Dimensions: N images, P tokens of an image, F features.
"""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rank_plan import flop_counter
from sample_data import HELP, TRAIN, VAL, located
from side_by_side import Figures, Unavailable
from torch import Tensor

from coca.core.config.frozen_config import load_config
from coca.core.errors import ConfigError
from coca.data.batch import Batch
from coca.data.sources.tar.shards import ShardsConfig
from coca.metrics.caption_metrics import caption_scores, words
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig
from coca.model.encoders.encoder_weights import load_encoder_weights
from coca.model.generation.generate import generate
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.tokenizer import Tokenizer
from coca.runtime.generation_config import GenerationConfig
from coca.train.objective import CoCaObjective, LossConfig
from coca.train.optim.optimizer import OptimizerConfig, make_optimizer
from coca.workflows.training.feature_cache import obtain_features
from coca.workflows.training.pretrain import PretrainConfig
from coca.workflows.training.pretrain_data import DataConfig, FeatureCacheConfig, open_sources

RECIPE = Path(__file__).parents[1] / "recipes" / "pretrain" / "frozen_encoder.yaml"
WARMUP, COOLDOWN = 20, 0.25
"""Steps of warmup, and length of the final decay as a fraction of the steps before it."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that both studies have: data, tokenizer, batch and threads."""
    parser.add_argument("--train", default=TRAIN, help=f"to train on: {HELP}")
    parser.add_argument("--val", default=VAL, help=f"to score on: {HELP}")
    parser.add_argument("--scored", type=int, default=1_000, help="photos to score on (1,000)")
    parser.add_argument("--folder", default="runs/frozen-study", help="features, and points")
    parser.add_argument("--vocab", type=int, default=4_000, help="tokens (4,000)")
    parser.add_argument("--batch", type=int, default=128, help="pairs of a step (128)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")


def passed_on(arguments: argparse.Namespace, *others: str) -> list[str]:
    """Return the options of both studies, and others by name, as arguments of a contestant."""
    names = ("train", "val", "scored", "folder", "vocab", "batch", "threads", *others)
    return [f"--{name}={getattr(arguments, name)}" for name in names]


@dataclass(frozen=True)
class Photos:
    """Features and captions of the photos of some shards."""

    features: Tensor
    """(N, P, F), fp16."""
    captions: Sequence[Sequence[str]]

    def __len__(self) -> int:
        return len(self.captions)

    def first(self, count: int) -> "Photos":
        """Return the first photos, at most `count`."""
        return Photos(self.features[:count], self.captions[:count])


def recipe() -> PretrainConfig:
    """Read the recipe whose encoder and text settings the studies use."""
    return load_config(PretrainConfig, RECIPE)


def load_photos(pattern: str, folder: Path) -> Photos:
    """Read captions, and features from the cache; compute the features that are missing.

    Raises:
        Unavailable: The photos or the weights of the encoder are not on this machine.
    """
    pattern = located(pattern)
    config = recipe()
    model = CoCa(config.model)
    assert config.encoder_weights is not None
    try:
        load_encoder_weights(model.image_encoder, config.encoder_weights)
    except ConfigError as error:
        raise Unavailable(str(error)) from error
    sources = open_sources([ShardsConfig(path=pattern)])
    data = DataConfig(
        sources=(sources[0][0],), features=FeatureCacheConfig(folder=folder / "features")
    )
    image = config.model.image
    transform = ImageTransform(
        ImageConfig(image_size=image.image_size, **image.normalization()._asdict())
    )
    (file,) = obtain_features(data, sources, model.image_encoder, transform)
    source = sources[0][1]
    found = [file.read(row, 0) for row in range(len(source))]
    captions = [source.read(row).captions for row in range(len(source))]
    kept = [row for row, features in enumerate(found) if features is not None]
    return Photos(
        torch.from_numpy(np.stack([found[row].features for row in kept])),  # type: ignore[union-attr]
        [captions[row] for row in kept],
    )


def train_tokenizer(photos: Photos, vocab_size: int) -> Tokenizer:
    """Train a tokenizer on all captions."""
    return Tokenizer.train(
        (text for captions in photos.captions for text in captions), vocab_size=vocab_size
    )


def sized(width: int, layers: int, vocab_size: int) -> CoCaConfig:
    """Return the recipe's model with other text decoders.

    Args:
        width: Width of the decoders, a multiple of 16.
        layers: Layers of each of the two decoders.
        vocab_size: Number of tokens.
    """
    config = recipe().model
    heads = max(1, width // 64)
    text = replace(
        config.text,
        vocab_size=vocab_size,
        width=width,
        heads=heads,
        mlp_width=4 * width,
        unimodal_layers=layers,
        multimodal_layers=layers,
    )
    return replace(
        config,
        image=replace(config.image, width=width),
        text=text,
        pooler=replace(config.pooler, heads=heads),
        embed_dim=width,
    )


class Study:
    """A captioner in training, at a constant rate that branches decay.

    Each branch is a run of its own with a final decay, so that one training gives points at many
    lengths.

    Args:
        config: The model.
        photos: Photos of the training.
        tokenizer: Tokenizer of the captions.
        loss: Losses to train.
        lr: Learning rate of AdamW.
        batch_size: Pairs of a step.
        seed: Seed of weights and sample order.
    """

    def __init__(
        self,
        config: CoCaConfig,
        photos: Photos,
        tokenizer: Tokenizer,
        *,
        loss: LossConfig,
        lr: float,
        batch_size: int,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        self.model, self.photos, self.tokenizer = CoCa(config), photos, tokenizer
        for parameter in self.model.image_encoder.backbone.parameters():  # type: ignore[union-attr]
            parameter.requires_grad_(False)
        self.objective, self.lr, self.batch_size = CoCaObjective(loss), lr, batch_size
        optimizer = OptimizerConfig(lr=lr, weight_decay=0.2, betas=(0.9, 0.98))
        self.optimizer = make_optimizer(self.model, optimizer)
        self.generator = np.random.default_rng(seed)
        self.step = 0
        self._order: list[int] = []

    def run_to(self, step: int) -> None:
        """Train at a constant rate up to a step."""
        while self.step < step:
            self._update(min(1.0, (self.step + 1) / WARMUP))

    def branch(self) -> "Study":
        """Return a copy whose rate has decayed to 0; this training can go on."""
        other = copy.deepcopy(self)
        steps = max(1, round(COOLDOWN * self.step))
        for number in range(steps):
            other._update(1 - (number + 0.5) / steps)
        return other

    def flops_of_pair(self) -> float:
        """Count the operations of a step for each pair, without those of the optimizer."""
        counted = copy.deepcopy(self)
        with flop_counter() as counter:
            counted._update(0.0)
        return counter.get_total_flops() / self.batch_size

    def _update(self, factor: float) -> None:
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor * group["lr_scale"]
        losses = self.objective(self.model, self._batch())
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.model.clamp_temperature_()
        self.step += 1

    def _batch(self) -> Batch:
        if len(self._order) < self.batch_size:
            self._order += self.generator.permutation(len(self.photos)).tolist()
        rows, self._order = self._order[: self.batch_size], self._order[self.batch_size :]
        texts = [str(self.generator.choice(self.photos.captions[row])) for row in rows]
        tokens = self.tokenizer.encode(texts, context_length=self.model.config.text.context_length)
        features = self.photos.features[rows].float()
        return Batch(features, tokens, tuple(map(str, rows)), start=self.step * self.batch_size)

    def __deepcopy__(self, memo: dict[int, object]) -> "Study":
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.optimizer = make_optimizer(other.model, OptimizerConfig(lr=self.lr))
        other.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        other.generator = copy.deepcopy(self.generator)
        other._order = list(self._order)
        return other


@torch.inference_mode()
def score(study: Study, photos: Photos, *, captions: bool = False) -> Figures:
    """Score a captioner on photos that it was not trained on.

    Args:
        study: The training.
        photos: The photos.
        captions: Whether captions are generated greedily and scored by CIDEr.

    Returns:
        R@10 from the first caption to the photo and back, the loss of the first caption in nats
        per token, and CIDEr against all captions.
    """
    model, tokenizer = study.model.eval(), study.tokenizer
    texts = [group[0] for group in photos.captions]
    tokens = tokenizer.encode(texts, context_length=model.config.text.context_length)
    images, written, embedded = [], [], []
    objective = CoCaObjective(LossConfig(contrastive_weight=0, captioning_weight=1))
    losses = []
    for rows in np.array_split(np.arange(len(photos)), -(-len(photos) // 100)):
        features, part = photos.features[rows].float(), tokens[rows]
        images.append(model.encode_image(features))
        embedded.append(model.encode_text(part))
        batch = Batch(features, part, tuple(map(str, rows)), start=0)
        losses.append(float(objective(model, batch).total) * len(rows))
        if captions:
            found = generate(
                model, model.image_tokens(features), decoding=GenerationConfig(num_beams=1)
            )
            written += [tokenizer.decode(one[0].token_ids) for one in found]
    similarity = torch.cat(embedded) @ torch.cat(images).T
    figures = {
        "text to image R@10": _recall(similarity),
        "image to text R@10": _recall(similarity.T),
        "captioning loss": sum(losses) / len(photos),
    }
    if captions:
        references = [[words(text) for text in group] for group in photos.captions]
        figures["CIDEr"] = caption_scores([words(text) for text in written], references)["cider"]
    return figures


def _recall(similarity: Tensor, k: int = 10) -> float:
    own = similarity.diagonal()[:, None]
    return float(((similarity > own).sum(dim=1) < k).float().mean())

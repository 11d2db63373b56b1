"""A plugin: one file that adds a part of each kind to `coca`, each as short as it can be.

    coca pretrain recipe:emoji --plugin examples/plugin.py model.image.kind=patch_conv \\
        loss.contrastive=triplet train.schedule.decay=steps tokenizer.kind=words \\
        'data.augment.extra=[invert]'

Parts that are not used have no effect. Give `--plugin` also to commands that load the model if its
image encoder is the plugin's. A loss, schedule, augmentation or tokenizer is not needed after
training.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from coca.data.sources.annotated import AnnotatedSample, AnnotatedSource
from coca.data.sources.source import SourceConfig, register_source, single_path
from coca.model.encoders.encoder import IMAGE_ENCODERS, ImageEncoder, ImageEncoderConfig
from coca.model.losses.collectives import all_gather, rank_of
from coca.model.losses.contrastive_loss import ContrastiveOutput
from coca.predict.predictor import Predictor
from coca.processing.augment import AUGMENTATIONS
from coca.processing.tokenizer import SPECIAL_TOKENS, TOKENIZERS
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.train.losses import CONTRASTIVE_LOSSES, Embedded, LossConfig
from coca.train.optim.schedule import SCHEDULES


@CONTRASTIVE_LOSSES.register("triplet")
def triplet(embedded: Embedded, config: LossConfig) -> ContrastiveOutput:
    """Separate each image's own caption from the nearest other caption of all ranks by 0.2."""
    images, texts, scale, _ = embedded
    first = rank_of() * len(images)
    # Captions of other ranks are constants: each rank trains its own.
    captions = all_gather(texts.detach()).clone()
    captions[first : first + len(texts)] = texts
    similarity = images @ captions.T
    own = torch.arange(first, first + len(images), device=images.device)
    nearest = similarity.scatter(1, own[:, None], -2.0).amax(dim=1)
    positive = similarity.gather(1, own[:, None])[:, 0]
    loss = (nearest - positive + 0.2).clamp(min=0).mean() + 0 * scale
    return ContrastiveOutput(loss, (positive >= nearest).float().mean().detach())


@SCHEDULES.register("steps")
def steps(progress: float) -> float:
    """Divide the learning rate by 10 after half of the run, and again after three quarters."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


@AUGMENTATIONS.register("invert")
def invert(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Invert the colours of every fourth image; random numbers come from `generator` only."""
    return 255 - pixels if float(torch.rand((), generator=generator)) < 0.25 else pixels


@TOKENIZERS.register("words")
def words(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """Make each frequent word one token; other words are unknown."""
    tokenizer = Tokenizer(models.WordLevel({}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase() if lowercase else normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    special = [*SPECIAL_TOKENS, "[UNK]"]
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class PatchConvConfig(ImageEncoderConfig):
    """Settings of `patch_conv`, which `coca config keys` lists."""

    kind: str = "patch_conv"
    image_size: int = 32
    patch_size: int = 8
    width: int = 64
    layers: int = 2
    """Convolutions over neighbouring patches."""


@IMAGE_ENCODERS.register("patch_conv")
class PatchConv(ImageEncoder):
    """A convolution to patches, then residual convolutions over them."""

    config_class = PatchConvConfig

    def __init__(self, config: PatchConvConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.layers = nn.ModuleList(
            nn.Conv2d(config.width, config.width, 3, padding=1) for _ in range(config.layers)
        )

    def features(self, images: Tensor) -> Tensor:
        """Return one token for each patch."""
        maps = self.patches(images)
        for layer in self.layers:
            maps = maps + layer(maps).relu()
        return maps.flatten(2).transpose(1, 2)


class NamedConfig(SourceConfig):
    """Settings of `named_files`."""

    kind: str = "named_files"
    suffix: str = ".png"
    """Suffix of the images."""


@register_source("named_files", NamedConfig)
def named_files(config: NamedConfig) -> AnnotatedSource:
    """Read images whose file name is their caption, such as `red_car.png`."""
    folder = Path(single_path(config))
    files = sorted(file.name for file in folder.glob(f"*{config.suffix}"))
    captions = [name.removesuffix(config.suffix).replace("_", " ") for name in files]
    entries = [
        AnnotatedSample(file, file, captions=(caption,))
        for file, caption in zip(files, captions, strict=True)
    ]
    return AnnotatedSource(entries, images=str(folder), fingerprint=" ".join(files))


@TASKS.register("caption_length")
def caption_length(predictor: Predictor, config: TaskConfig) -> TaskResult:
    """Count the words of the captions that a model writes; a task is a function."""
    images = sorted(Path(single_path(config.data)).glob("*.png"))
    captions = predictor.caption(images)
    mean = sum(len(caption.text.split()) for caption in captions) / len(captions)
    return TaskResult("caption_length", {"words": mean}, samples=len(captions))

"""Feature cache of a frozen image encoder: one file of features for each source of a run.

The features of an image are computed once and read in every epoch. With augmentation, a file has
several views of each image, and epoch e reads view e modulo their number. A view depends on its row
and number only, and not on the run's seed, so that runs share files.

Dimensions: N images, V views of each, M views of all, S side of an image in pixels, P tokens,
F features.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, UInt8
from torch import Tensor

from coca.core.config.frozen_config import digest, non_default
from coca.core.errors import ConfigError, DataError
from coca.core.prefetch import iterate_ahead
from coca.core.progress import progress_bar
from coca.data.loading.feature_file import (
    FeatureFile,
    FeatureKey,
    FeaturesInUseError,
    FeatureWriter,
)
from coca.data.loading.mixture import mix
from coca.data.sample import Sample
from coca.data.sources.source import Source, SourceConfig
from coca.model.coca import CoCa
from coca.model.encoders.encoder import ImageEncoder
from coca.model.lora import LowRank
from coca.model.pretrained import resolve_precision
from coca.processing.augment import Augment, AugmentConfig
from coca.processing.image import ImageTransform, decode
from coca.train.distributed.context import DistributedContext
from coca.train.optim.param_groups import frozen_by
from coca.train.trainer import TrainConfig, training_device
from coca.workflows.training.pretrain_data import DataConfig, FeatureCacheConfig, Sources

logger = logging.getLogger(__name__)

BATCH_IMAGES = 32
"""Images in one forward pass of the encoder."""

_WAIT_S = 0.5
"""Time between attempts to write a file that another process is writing, in seconds."""
_VIEW = 2 << 32  # separates the random streams of views from those of a run


def require_frozen(model: CoCa, freeze: Sequence[str]) -> None:
    """Check that training does not change the features."""
    frozen = frozen_by(model, freeze)
    trained = [
        name
        for name, parameter in model.image_encoder.feature_parameters()
        if parameter.requires_grad and f"image_encoder.{name}" not in frozen
    ]
    if trained:
        part = "image_encoder" + (".backbone" if trained[0].startswith("backbone.") else "")
        adapted = any(isinstance(it, LowRank) for it in model.image_encoder.modules())
        remedy = (
            f"leave {part} out of lora.match"
            if adapted
            else f"add {part} to train.optimizer.freeze"
        )
        raise ConfigError(
            f"data.features reads features of a frozen image encoder, but {len(trained)} of its "
            f"tensors are trained, such as image_encoder.{trained[0]}; {remedy}"
        )


def features_of_run(
    config: DataConfig,
    sources: Sources,
    model: CoCa,
    transform: ImageTransform,
    train: TrainConfig,
    *,
    device: str = "cpu",
) -> list[FeatureFile]:
    """Open the feature file of each source of a run, and write those that are missing.

    There is none if the run reads images. With `features.stages`, the encoder is split there.
    Writing continues where an earlier process stopped, and waits for another process that writes
    the same file. The main rank writes; all ranks must call this function.
    """
    settings, encoder = config.features, model.image_encoder
    if settings is None:
        return []
    if settings.stages is not None:
        encoder.split_after(settings.stages)
    require_frozen(model, train.optimizer.freeze)
    bf16 = resolve_precision(train.precision, training_device(device)) == "bf16"
    encoder_hash = hash_encoder(encoder, bf16=bf16)
    keys = [
        feature_key(source, encoder, transform, config.augment, settings, encoder_hash)
        for _, source in sources
    ]

    def write() -> None:
        for (source_config, source), key in zip(sources, keys, strict=True):
            augment = None
            if config.augment != AugmentConfig():
                augment = Augment(config.augment, transform.config)
            images, warned = ViewReader(source, transform, augment, key), False
            while not (settings.folder / key.file_name).exists():
                try:
                    _write(source_config, images, encoder, settings.folder, bf16, device)
                except FeaturesInUseError as error:
                    if not warned:
                        logger.warning("%s; this one waits for it", error)
                        warned = True
                    time.sleep(_WAIT_S)

    DistributedContext.current().broadcast_from_main(write)
    return [FeatureFile(settings.folder / key.file_name, key) for key in keys]


def feature_key(
    source: Source,
    encoder: ImageEncoder,
    transform: ImageTransform,
    augment: AugmentConfig,
    settings: FeatureCacheConfig,
    encoder_hash: str,
) -> FeatureKey:
    """Compute the key of a source's feature file."""
    size = transform.config.image_size
    device = next(iter(encoder.feature_state().values())).device
    blank = torch.zeros(1, 3, size, size, device=device)
    features = _half(encoder.eval(), blank, bf16=False)
    return FeatureKey(
        encoder=encoder_hash,
        transform=digest({"image": non_default(transform.config), "augment": non_default(augment)}),
        # The key "stamps" is hashed; another name would make existing caches useless.
        data=digest({"source": source.fingerprint, "stamps": _etags(source, len(source))}),
        rows=len(source),
        views=settings.views,
        tokens=features.shape[1],
        width=features.shape[2],
    )


def hash_encoder(encoder: ImageEncoder, *, bf16: bool = False) -> str:
    """Hash what features depend on: the encoder's tensors by name, its family, its precision."""
    family = encoder.feature_family + (", bf16" if bf16 else "")
    found = hashlib.sha256(family.encode())
    for name, tensor in sorted(encoder.feature_state().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


class ViewReader:
    """Reader of the augmented views of a source's images, in the order of rows."""

    def __init__(
        self, source: Source, transform: ImageTransform, augment: Augment | None, key: FeatureKey
    ) -> None:
        self.key = key
        self._source = source
        self.transform = transform
        self._augment = augment

    def batches(
        self, first: int
    ) -> Iterator[tuple[UInt8[Tensor, "N V 3 S S"], Bool[np.ndarray, " N"]]]:
        """Yield the views of the rows from `first` on, and which rows are usable."""
        count = max(1, BATCH_IMAGES // self.key.views)
        for start in range(first, self.key.rows, count):
            rows = range(start, min(start + count, self.key.rows))
            found = [
                self._views(row, sample)
                for row, sample in zip(rows, self._source.read_many(rows), strict=True)
            ]
            side = self.transform.config.image_size
            empty = torch.zeros(self.key.views, 3, side, side, dtype=torch.uint8)
            yield (
                torch.stack([empty if views is None else views for views in found]),
                np.array([views is not None for views in found]),
            )

    def _views(self, row: int, sample: Sample | DataError) -> UInt8[Tensor, "V 3 S S"] | None:
        """Decode an image and augment it; None if it is unusable, which a run reports."""
        try:
            if isinstance(sample, DataError) or len(sample.images) != 1:
                return None
            pixels = decode(sample.image)
        except DataError:
            return None
        if self._augment is None:
            return self.transform.square(pixels)[None]
        views = []
        for view in range(self.key.views):
            seed = int(mix(_VIEW, row, view)[0])
            views.append(self._augment(pixels, torch.Generator().manual_seed(seed)))
        return torch.stack(views)


def _etags(source: Source, rows: int) -> list[str]:
    """Return the etag of each row, empty where the row is damaged."""
    etags: list[str] = []
    for row in range(rows):
        try:
            etags.append(source.etag(row))
        except DataError:
            etags.append("")
    return etags


def _write(
    config: SourceConfig,
    images: ViewReader,
    encoder: ImageEncoder,
    folder: Path,
    bf16: bool,
    device: str,
) -> None:
    target = training_device(device)
    encoder.to(target).eval()
    rows = images.key.rows
    with FeatureWriter(folder, images.key) as writer:
        begin = writer.rows_done
        with progress_bar(f"computing features of {config.title}", rows - begin) as bar:
            started = time.perf_counter()
            for views, usable in iterate_ahead(images.batches(begin), ahead=2):
                pixels = images.transform.normalize(views.flatten(0, 1).to(target))
                features = _half(encoder, pixels, bf16=bf16)
                writer.append(features.reshape(*views.shape[:2], *features.shape[1:]), usable)
                rate = (writer.rows_done - begin) / (time.perf_counter() - started)
                bar.advance(len(views), images_per_s=round(rate * images.key.views, 1))
        made = writer.finish()
    logger.info("%s contains the features of %s images of %s", made.path, rows, config.title)


@torch.inference_mode()
def _half(
    encoder: ImageEncoder, images: Float[Tensor, "M 3 S S"], *, bf16: bool
) -> Float16[np.ndarray, "M P F"]:
    """Compute features in fp16, by an encoder in fp32 or bf16."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        half = encoder.features(images).to(torch.float16).cpu()
    if not bool(half.isfinite().all()):
        raise DataError(
            "features of the image encoder exceed the range of fp16, 65,504; this encoder cannot "
            "be cached",
            reason="bad_features",
        )
    return half.numpy()

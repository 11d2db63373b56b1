"""Load a model on torch from its name, and identify a model folder by its fingerprint."""

import hashlib
import json
import logging
from pathlib import Path

import torch

from coca.core.config.execution import Precision
from coca.core.config.frozen_config import non_default
from coca.core.errors import ConfigError, ModelError
from coca.core.files.atomic import cached_digest, files_fingerprint
from coca.core.malloc import keep_freed_memory
from coca.model.coca import CoCa
from coca.model.openclip.openclip_config import OpenCLIPConfig
from coca.model.pretrained import (
    DTYPES,
    WEIGHTS_FILE,
    ModelConfig,
    Resolved,
    load_config_file,
    load_model,
    resolve_precision,
    weights_digest,
)
from coca.model.shipped import DEFAULT_MODEL, shipped
from coca.predict.image_text_predictor import Placement
from coca.predict.manifest import check_shipped
from coca.predict.model_kinds import MODELS, SOURCE_FILE, library_of, model_files
from coca.predict.open_weights import caveat_of, model_folder
from coca.predict.predictor import Predictor
from coca.predict.torch_predictor import TorchPredictor, require_coca
from coca.predict.tower import TowerConfig, TowerPredictor
from coca.processing.processor import PROCESSOR_FILE, TOKENIZER_FILE, Processor

logger = logging.getLogger(__name__)


def load_on_torch(
    name: str | Path,
    *,
    device: str | None = None,
    precision: Precision = "fp32",
    batch_size: int = 64,
    prepack: bool = True,
) -> Predictor:
    """Load any model that runs on torch; for arguments and errors see `coca.load`."""
    target, folder = device_named(device), model_folder(name)
    library = library_of(folder)
    if target.type == "cpu":
        keep_freed_memory()
    resolved = resolve_precision(precision, target)
    if library is None:
        return _load_coca(folder, target, resolved, batch_size=batch_size, prepack=prepack)
    found = files_fingerprint(folder, model_files(folder))
    placed = Placement(target, resolved, batch_size, found, prepack)
    loaded = MODELS.get(library).load(folder, placed)
    if target.type == "cpu" and prepack:
        loaded.accelerate()
    return loaded


def load_coca(
    name: str | Path = DEFAULT_MODEL,
    *,
    device: str | None = None,
    precision: Precision = "fp32",
    batch_size: int = 64,
    prepack: bool = True,
) -> TorchPredictor:
    """Load a CoCa model on torch, with its `model` and `processor`; as `coca.load`.

    Raises:
        ModelError: It is an image-text model of another library.
    """
    folder = model_folder(name)
    if library_of(folder) is not None:
        raise ModelError(
            f"{name} is an image-text model without a decoder, and this needs a CoCa model; "
            f"shipped: {', '.join(shipped())}"
        )
    return require_coca(
        load_on_torch(
            folder, device=device, precision=precision, batch_size=batch_size, prepack=prepack
        )
    )


def _load_coca(
    path: Path, device: torch.device, precision: Resolved, *, batch_size: int, prepack: bool
) -> TorchPredictor:
    if (path / SOURCE_FILE).is_file() and (caveat := caveat_of(path)):
        logger.warning("%s", caveat)
    config, processor = load_config_file(path), Processor.load(path)
    _require_fit(path, config, processor)
    model = load_model(path, device=device, dtype=DTYPES[precision])
    if isinstance(config.image, TowerConfig):
        model.to(DTYPES[precision])  # the tower, which no file of the model has
    found = fingerprint(path)
    check_shipped(path, found)
    return as_predictor(
        model,
        processor,
        fingerprint=found,
        source=str(path),
        batch_size=batch_size,
        prepack=prepack,
    )


def as_predictor(
    model: CoCa,
    processor: Processor,
    *,
    fingerprint: str,
    source: str,
    batch_size: int = 64,
    prepack: bool = False,
) -> TorchPredictor:
    """Wrap a model in memory; for arguments see `TorchPredictor`."""
    image = model.config.image
    keeps = isinstance(image, TowerConfig) and image.keeps_embeddings
    return (TowerPredictor if keeps else TorchPredictor)(
        model,
        processor,
        fingerprint=fingerprint,
        source=source,
        batch_size=batch_size,
        prepack=prepack,
    )


def fingerprint(folder: str | Path) -> str:
    """Compute the 24 hex digits that identify weights, processor, tokenizer and configuration.

    The first 16 digits hash weights, processor and tokenizer, the last 8 the configuration.
    A setting at its default hashes like a missing setting. The weights are read; digests of files
    above 64 MiB are cached, see `coca.core.files.atomic`.
    """
    folder = Path(folder)
    weights = cached_digest(folder / WEIGHTS_FILE, lambda: weights_digest(folder))
    digest = hashlib.sha256(weights.encode())
    for name in (PROCESSOR_FILE, TOKENIZER_FILE):
        try:
            digest.update((folder / name).read_bytes())
        except OSError as error:
            raise ModelError(f"{folder} has no readable {name}: {error.strerror}") from error
    config = load_config_file(folder)
    stated = non_default(config)
    if isinstance(config.image, TowerConfig):
        del stated["image"]["name"]  # the same tower may be in another folder
    settings = json.dumps([type(config).__name__, stated], sort_keys=True)
    return digest.hexdigest()[:16] + hashlib.sha256(settings.encode()).hexdigest()[:8]


def _require_fit(path: Path, config: ModelConfig, processor: Processor) -> None:
    tokenizer, text, side = processor.tokenizer, config.text, processor.image_config.image_size
    faults = []
    if tokenizer.vocab_size > text.vocab_size:
        faults.append(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {text.vocab_size}"
        )
    if (tokenizer.bos_id, tokenizer.eos_id) != (text.bos_id, text.eos_id):
        faults.append(
            f"the tokenizer puts captions between ids {tokenizer.bos_id} and {tokenizer.eos_id}, "
            f"the model between {text.bos_id} and {text.eos_id}"
        )
    if processor.context_length > text.context_length:
        faults.append(
            f"the processor makes captions of {processor.context_length} tokens, the model reads "
            f"{text.context_length}"
        )
    own = config.image.image_size
    if isinstance(config, OpenCLIPConfig) and side != own:
        faults.append(f"the processor makes images of {side} px, the model reads {own}")
    if side != own and side % config.image.patch_size:
        faults.append(
            f"the processor makes images of {side} px, which must be a multiple of the model's "
            f"patches of {config.image.patch_size} px"
        )
    if faults:
        raise ModelError(f"{path} mixes files of different models: {'; '.join(faults)}")


def device_named(name: str | None) -> torch.device:
    """Return a device by its name; default: the first accelerator, else the CPU."""
    if name is None:
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return found or torch.device("cpu")
    usable = " or ".join(dict.fromkeys((str(device_named(None)), "cpu")))
    try:
        target = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        # The rest of torch's message lists every backend that it was not built for.
        reason = str(error).splitlines()[0].partition(". ")[0].rstrip(".")
        raise ConfigError(f"device {name!r} cannot be used here ({reason}); {usable} can") from None
    if target.type == "meta":
        raise ConfigError(f"device {name!r} has no data, so it runs no model; {usable} can")
    return target

"""Loading of models by name: shipped models, folders, runs and published open weights.

    coca.load()                                              the default model, in this package
    coca.load("runs/from-scratch/model")                     a model folder, or its run folder
    coca.load("openclip:coca_ViT-B-32/laion2b_s13b_b90k")    published open weights
    coca.load("hf:organisation/name")                        a repository of the Hugging Face hub
    coca.load("open_clip_pytorch_model.bin")                 a file of OpenCLIP's weights

An existing path takes precedence over a shipped name.
"""

import hashlib
import json
import logging
from pathlib import Path

import torch

from coca.core.config.frozen_config import non_default
from coca.core.errors import ConfigError, ModelError
from coca.core.files.atomic import cached_digest
from coca.core.malloc import keep_freed_memory
from coca.inference.model_kinds import SOURCE_FILE, is_image_text
from coca.inference.open_weights import caveat_of, model_folder
from coca.inference.predictor import Predictor
from coca.inference.tower import TowerConfig, TowerPredictor
from coca.model.openclip.openclip import AnyCoCa
from coca.model.openclip.openclip_config import OpenCLIPConfig
from coca.model.pretrained import (
    DTYPES,
    WEIGHTS_FILE,
    ModelConfig,
    load_config_file,
    load_model,
    resolve_precision,
    weights_digest,
)
from coca.processing.processor import PROCESSOR_FILE, TOKENIZER_FILE, Processor
from coca.runtime.execution import Precision, check_precision
from coca.runtime.files import check_name
from coca.runtime.short_vectors import shorten
from coca.weights import DEFAULT_MODEL, FINGERPRINTS, shipped

logger = logging.getLogger(__name__)


def load(
    name: str | Path = DEFAULT_MODEL,
    *,
    device: str | None = None,
    precision: Precision = "fp32",
    batch_size: int = 64,
    prepack: bool = True,
    dimensions: int | None = None,
) -> Predictor:
    """Load a pretrained model by its name; `openclip:` and `hf:` use the network.

    On a CPU, the process then keeps freed memory for the next batch (`coca.core.malloc`), which
    halves the processor time of a ConvNet.

    Args:
        name: A folder with `config.json`, `model.safetensors`, `tokenizer.json` and
            `processor.json`, as `coca pretrain` writes them; a run folder that has such a model;
            the name of a shipped model; or open weights, which are converted once and cached.
            Default: the shipped model `everyday`.
        device: A torch device such as `"cuda:0"`; default: the first accelerator, else the CPU.
        precision: Precision of weights and arithmetic; embeddings are always fp32. `auto` is bf16
            where the device multiplies it faster than fp32, else fp32.
        batch_size: Images or texts per batch, at least 1. On a CPU, 64 images of `everyday` at once
            take 0.8 GB more memory than 16.
        prepack: On a CPU, keep a second copy of the weights in prepacked order. Images take a
            tenth less time, captions up to half. Do not train such a model.
        dimensions: Keep the first numbers of each embedding, and normalize them again; see
            `coca.runtime.short_vectors`. Default: all.

    Raises:
        ModelError: A file is missing, damaged, does not fit the others, or cannot be downloaded.
        ConfigError: The precision, device or open weights are unknown, or `dimensions` is above the
            size of the embeddings.
        MissingExtraError: Open weights need the extra `hub`.
    """
    check_name(name)
    check_precision(precision)
    target = device_named(device)
    path = model_folder(name)
    if is_image_text(path):
        raise ModelError(
            f"{name} is an image-text model without a decoder, and this needs a CoCa model; "
            f"shipped: {', '.join(shipped())}"
        )
    if (path / SOURCE_FILE).is_file() and (caveat := caveat_of(path)):
        logger.warning("%s", caveat)
    if target.type == "cpu":
        keep_freed_memory()
    config, processor = load_config_file(path), Processor.load(path)
    _require_fit(path, config, processor)
    dtype = DTYPES[resolve_precision(precision, target)]
    model = load_model(path, device=target, dtype=dtype)
    if isinstance(config.image, TowerConfig):
        model.to(dtype)  # the tower, which no file of the model has
    found = fingerprint(path)
    if path == shipped().get(path.name) and found != FINGERPRINTS.get(path.name, found):
        raise ModelError(
            f"{path} is damaged: the fingerprint of its files is {found}, and not "
            f"{FINGERPRINTS[path.name]}; install coca-captioners again"
        )
    predictor = as_predictor(
        model,
        processor,
        fingerprint=found,
        source=str(path),
        batch_size=batch_size,
        prepack=prepack,
    )
    return predictor if dimensions is None else shorten(predictor, dimensions)


def as_predictor(
    model: AnyCoCa,
    processor: Processor,
    *,
    fingerprint: str,
    source: str,
    batch_size: int = 64,
    prepack: bool = False,
) -> Predictor:
    """Create the predictor of a model in memory; arguments as of `Predictor`."""
    image = model.config.image
    keeps = isinstance(image, TowerConfig) and image.keeps_embeddings
    return (TowerPredictor if keeps else Predictor)(
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
            f"the processor makes images of {side} px, no multiple of the model's patches of "
            f"{config.image.patch_size} px"
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
        raise ConfigError(f"device {name!r} has no numbers, so it runs no model; {usable} can")
    return target

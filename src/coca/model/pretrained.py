"""Save and load models: `config.json` and `model.safetensors` in one folder, without pickle.

The precision of loaded weights is resolved here as well.
"""

import hashlib
import logging
import shlex
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from coca.core.config.execution import Precision
from coca.core.config.frozen_config import from_dict, to_dict
from coca.core.errors import ConfigError, ModelError
from coca.core.files.atomic import read_json, read_model_json, write_atomic, write_json
from coca.model.class_coca import ClassCoCa
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig
from coca.model.heads import AttentivePoolingHead
from coca.model.openclip.openclip import OpenCLIP
from coca.model.openclip.openclip_config import OpenCLIPConfig

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MODULES_FILE = "modules.json"
"""File by which sentence-transformers loads a model folder; `coca.load` does not need it."""
_MODULES = [
    {
        "idx": 0,
        "name": "0",
        "path": "",
        "type": "coca.release.adapters.sentence_transformers.CoCaModule",
    }
]
FORMAT_VERSION = 1
_ALIGNMENT_BYTES = 64
"""The alignment of tensors that torch allocates."""
_POOLERS = ("captioning_pooler", "contrastive_pooler", "pooler")

ModelConfig: TypeAlias = CoCaConfig | OpenCLIPConfig
"""The configuration of either architecture."""

MODEL_CONFIGS: Mapping[str, type[ModelConfig]] = {"coca": CoCaConfig, "openclip": OpenCLIPConfig}
"""Configuration class of each architecture, by its name in files."""


@overload
def build(config: CoCaConfig) -> CoCa: ...
@overload
def build(config: OpenCLIPConfig) -> OpenCLIP: ...
def build(config: ModelConfig) -> CoCa:
    """Build a model with its classification head, if it has one, with initialized weights."""
    model: CoCa
    if isinstance(config, OpenCLIPConfig):
        model = OpenCLIP(config)
    else:
        model = ClassCoCa(config) if ClassCoCa.fits(config) else CoCa(config)
    if config.head is not None:
        widths = {"image_width": config.image.width, "text_width": config.text.width}
        model.head = AttentivePoolingHead(config.head, **widths)
    return model


def build_on_meta(config: ModelConfig) -> CoCa:
    """Build a model on the meta device: tensors have shapes but no data."""
    with torch.device("meta"), _SkipInit():
        return build(config)


def with_image_size(config: ModelConfig, image_size: int) -> ModelConfig:
    """Return the configuration with another native image size, in pixels."""
    return config.replace(image=config.image.replace(image_size=image_size))


def save_model(folder: str | Path, model: CoCa, *, dtype: torch.dtype | None = None) -> None:
    """Save configuration and weights of a model."""
    config = model.config
    assert isinstance(config, CoCaConfig | OpenCLIPConfig), "no other architecture has a name"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: _cast(tensor.detach().cpu(), dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    # `weights_digest` compares the weights with this digest.
    metadata = {"format": "pt", "digest": _digest(state)}
    write_atomic(folder / WEIGHTS_FILE, save(state, metadata=metadata))
    content = {
        "format_version": FORMAT_VERSION,
        "architecture": architecture_of(config),
        "model": to_dict(config),
    }
    write_json(folder / CONFIG_FILE, content)
    write_modules(folder)


def architecture_of(config: object) -> str:
    """Return the name of an architecture in files; of another kind of model its class."""
    names = (name for name, kind in MODEL_CONFIGS.items() if isinstance(config, kind))
    return next(names, type(config).__name__)


def write_modules(folder: str | Path) -> None:
    """Write the file by which sentence-transformers loads a model folder."""
    write_json(Path(folder) / MODULES_FILE, _MODULES)


def load_config_file(folder: str | Path) -> ModelConfig:
    """Read the configuration of a saved model, without its weights."""
    path = Path(folder) / CONFIG_FILE
    missing = f"{folder} is not a model folder: it has no {CONFIG_FILE}; `coca pretrain` writes one"
    return parse_config(read_model_json(path, missing=missing), path)


def parse_config(content: Any, path: str | Path) -> ModelConfig:
    """Build the configuration of a model from the content of `config.json`."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ModelError(f"{path} has no section `model`, so it describes no CoCa model")
    if content.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{path} has format_version {content.get('format_version')!r}; this version of coca "
            f"reads {FORMAT_VERSION}"
        )
    architecture = str(content.get("architecture"))
    if architecture not in MODEL_CONFIGS:
        raise ModelError(
            f"{path} has the architecture {architecture!r}; this version of coca builds "
            f"{' and '.join(MODEL_CONFIGS)}"
        )
    return build_config(architecture, content["model"], Path(path))


def build_config(architecture: str, content: Mapping[str, Any], path: Path) -> ModelConfig:
    """Build the configuration that a file or checkpoint contains.

    Raises:
        ModelError: It is invalid. For an image encoder of a plug-in that is not loaded, the error
            has the file that the run was started with; the file is not imported.
    """
    try:
        return from_dict(MODEL_CONFIGS[architecture], content, source=str(path))
    except ConfigError as error:
        remedy = ""
        if "kind = " in str(error) and " is unknown" in str(error):
            remedy = "; a kind of a plug-in needs its package, or --plugin FILE.py"
            if files := _plugin_files(path):
                options = " ".join(f"--plugin {shlex.quote(file)}" for file in files)
                hashes = ", ".join(sha256[:16] for sha256 in files.values())
                remedy = f"; its run had {options} (SHA-256 {hashes}): pass it if you trust it"
        raise ModelError(f"{error}{remedy}") from None


def _plugin_files(path: Path) -> dict[str, str]:
    """Return the plug-in files of the run that a model or checkpoint is in, with their hashes."""
    record = next((it for up in path.parents[:2] if (it := up / "record.json").is_file()), None)
    try:
        starts = [] if record is None else read_json(record)["starts"]
        return {str(file): str(sha256) for file, sha256 in starts[-1]["plugins"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def load_model(
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> CoCa:
    """Load a model from its folder, in evaluation mode.

    Names and shapes are compared with the configuration before any weight is read, so a
    damaged or foreign file takes no memory.
    """
    config = load_config_file(folder)
    path = Path(folder) / WEIGHTS_FILE
    model = build_on_meta(config)
    expected = _shapes(model.state_dict())
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _compare(path, expected, stored)
            state = {name: _align(_cast(file.get_tensor(name), dtype)) for name in expected}
    except FileNotFoundError:
        raise ModelError(f"{folder} has no {WEIGHTS_FILE}: the weights are missing") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or no safetensors file: {error}") from None
    model.load_state_dict(state, assign=True)
    # Buffers that no file contains were made on the CPU.
    return model.requires_grad_(True).to(device).eval()


def assemble(config: ModelConfig, state: Mapping[str, Tensor], *, source: str | Path) -> CoCa:
    """Build a model from weights in memory, without a copy."""
    model = build_on_meta(config)
    _compare(source, _shapes(model.state_dict()), _shapes(state))
    model.load_state_dict(dict(state), assign=True)
    return model.requires_grad_(True).eval()


def weights_digest(folder: str | Path) -> str:
    """Compute the digest of the weights from the tensors in the file.

    The header of a file written by `save_model` has the digest at that time. If the two differ, a
    bit of the file has changed since.
    """
    path = Path(folder) / WEIGHTS_FILE
    try:
        with safe_open(path, framework="pt") as file:
            stated = (file.metadata() or {}).get("digest")
            digest = hashlib.sha256()
            for name in sorted(file.keys()):
                _update(digest, name, file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    computed = digest.hexdigest()
    if stated is not None and stated != computed:
        raise ModelError(
            f"{path} is damaged: its weights differ from the digest in its header; copy or install "
            "the file again (weights that were edited on purpose are saved without that digest)"
        )
    return computed


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Count the parameters of each module, without allocating weights.

    Returns:
        A count for each top-level module, then `total`, then `total_without_poolers`, the number
        in the paper's Table 1.
    """
    counts: dict[str, int] = {}
    for name, parameter in build_on_meta(config).named_parameters():
        part = name.split(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    total = sum(counts.values())
    poolers = sum(counts.get(name, 0) for name in _POOLERS)
    return {**counts, "total": total, "total_without_poolers": total - poolers}


class _SkipInit(TorchFunctionMode):
    """Skips the initialization of meta tensors.

    On the meta device, torch's random functions import its compiler, which takes as long as the
    import of torch, and its arithmetic imports sympy.
    """

    _DRAWS = frozenset(("normal_", "uniform_"))
    _ARITHMETIC = frozenset(("div_", "mul_"))

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        # Masks of a tower are no meta tensors.
        is_skipped = name in self._DRAWS or (name in self._ARITHMETIC and args[0].is_meta)
        if is_skipped or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _compare(
    source: str | Path,
    expected: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, tuple[int, ...]],
) -> None:
    missing, extra = (
        sorted(expected.keys() - stored.keys()),
        sorted(stored.keys() - expected.keys()),
    )
    if missing or extra:
        raise ModelError(
            f"{source} does not fit its configuration: "
            + "; ".join(
                f"{len(names)} tensors {what} (such as {names[0]})"
                for names, what in ((missing, "missing"), (extra, "unknown"))
                if names
            )
        )
    for name, shape in expected.items():
        if stored[name] != shape:
            raise ModelError(
                f"{source}: {name} has shape {stored[name]}, but the configuration asks for {shape}"
            )


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    # Integers, such as the step counts of batch norms, keep their type.
    return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)


def _align(tensor: Tensor) -> Tensor:
    """Copy a tensor to aligned memory, if it is not aligned; a file may hold it at any address.

    Matrix products are faster on aligned memory. On some processors their last bits also differ
    with the alignment, and a loaded model must equal the saved one.
    """
    return tensor if tensor.data_ptr() % _ALIGNMENT_BYTES == 0 else tensor.clone()


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        _update(digest, name, state[name])
    return digest.hexdigest()


def _update(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    # A view of the tensor's memory: copying a large tensor takes as long as reading it.
    content: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    digest.update(content)


def model_description(config: ModelConfig) -> dict[str, Any]:
    """Return parameter counts and configuration as JSON values: the body of `coca info --json`."""
    return {"parameters": count_parameters(config), "config": to_dict(config)}


# Numeric precision: whether bf16 is faster than fp32 on a device.
#
# A processor without bf16 instructions (AVX512_BF16, AMX, or Arm's BF16) converts operands to fp32.
# One thread of an AMD EPYC without AVX-512 takes 3.5 ms in fp32 and 30 ms in bf16 for a product of
# 256 x 768 by 768 x 768. Instruction flags have other names on each architecture and do not include
# the library's own limits, so a small product is timed once per process.


Resolved: TypeAlias = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Type of the weights by precision."""

ROWS, WIDTH, ROUNDS = 128, 512, 5
_TIMED = (torch.float32, torch.bfloat16)
MIN_GAIN = 1.2
"""bf16 must be faster than fp32 by this factor; casts around the products cost time as well."""


def resolve_precision(precision: Precision, device: torch.device) -> Resolved:
    """Resolve `auto` to the faster of fp32 and bf16 on a device; warn about a slow `bf16`."""
    if precision == "auto":
        chosen: Literal["fp32", "bf16"] = "bf16" if bf16_gain(device) >= MIN_GAIN else "fp32"
        logger.info("precision auto: %s on this device", chosen)
        return chosen
    if precision == "bf16" and (gain := bf16_gain(device)) < 1 / MIN_GAIN:
        logger.warning(
            "this processor has no bf16 instructions: products take %.1f times as long as in fp32; "
            "set the precision to auto or fp32",
            1 / gain,
        )
    return precision


@cache
def bf16_gain(device: torch.device) -> float:
    """Return how many times as fast a matrix product is in bf16 as in fp32; measured on a CPU.

    On CUDA it is 2 with native bf16, and 0.5 where torch emulates it. On other devices it is 1.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return 2.0 if torch.cuda.is_bf16_supported(including_emulation=False) else 0.5
    if device.type != "cpu":
        return 1.0
    weight, inputs = torch.ones(WIDTH, WIDTH), torch.ones(ROWS, WIDTH)
    operands = {dtype: (inputs.to(dtype), weight.to(dtype)) for dtype in _TIMED}
    best = dict.fromkeys(_TIMED, float("inf"))
    with torch.inference_mode():
        # In turn, since the load of a machine changes; the first round compiles the kernels.
        for turn in range(ROUNDS + 1):
            for dtype, (rows, columns) in operands.items():
                begun = time.perf_counter()
                F.linear(rows, columns)
                if turn:
                    best[dtype] = min(best[dtype], time.perf_counter() - begun)
    return best[torch.float32] / best[torch.bfloat16]

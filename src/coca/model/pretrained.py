"""A model as files: `config.json` and `model.safetensors` in one folder. Nothing is pickled."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from coca.core.config import from_dict, to_dict
from coca.core.errors import ConfigError, ModelError
from coca.core.files import read_json, write_atomic
from coca.model.captioner import Captioner
from coca.model.coca import CoCa
from coca.model.config import CoCaConfig
from coca.model.openclip.config import OpenCLIPConfig
from coca.model.openclip.model import OpenCLIP

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
DETECTOR_FILES = ("detector.json", "detector.safetensors")
"""What `coca.model.detection.detector` writes next to them; named here to load a model without
torchvision's detection, which is slow to import."""
FORMAT_VERSION = 1
_ALIGNMENT_BYTES = 64
"""What torch itself aligns tensors to."""
_POOLERS = ("captioning_pooler", "contrastive_pooler", "pooler")

ModelConfig: TypeAlias = CoCaConfig | OpenCLIPConfig
"""The configuration of either architecture."""

_CONFIGS: Mapping[str, type[ModelConfig]] = {"coca": CoCaConfig, "openclip": OpenCLIPConfig}


def build(config: ModelConfig) -> Captioner:
    """Makes the model that a configuration describes, with fresh weights."""
    return OpenCLIP(config) if isinstance(config, OpenCLIPConfig) else CoCa(config)


def build_on_meta(config: ModelConfig) -> Captioner:
    """Makes a model whose tensors have shapes but no numbers, and take no memory."""
    with torch.device("meta"), _NoDraws():
        return build(config)


def save_model(folder: str | Path, model: Captioner, *, dtype: torch.dtype | None = None) -> None:
    """Writes configuration and weights; the folder may hold other files and is made if needed.

    Args:
        folder: Where they go.
        model: Of either architecture.
        dtype: Type that the weights are stored in, such as `torch.float16` for half the size;
            None keeps theirs.
    """
    config = model.config
    assert isinstance(config, CoCaConfig | OpenCLIPConfig), "no other architecture has a name"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: _cast(tensor.detach().cpu(), dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    # What the weights are now; `weights_digest` compares them with it later.
    metadata = {"format": "pt", "digest": _digest(state)}
    write_atomic(folder / WEIGHTS_FILE, save(state, metadata=metadata))
    architecture = next(name for name, kind in _CONFIGS.items() if isinstance(config, kind))
    content = {
        "format_version": FORMAT_VERSION,
        "architecture": architecture,
        "model": to_dict(config),
    }
    write_atomic(folder / CONFIG_FILE, (json.dumps(content, indent=2) + "\n").encode())


def load_config_file(folder: str | Path) -> ModelConfig:
    """Reads the configuration of a saved model; no weights are touched.

    Raises:
        ModelError: The file is missing, damaged, of a newer format, or describes no model.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise ModelError(
            f"{folder} is no model folder: it holds no {CONFIG_FILE}; `coca pretrain` writes one"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ModelError(f"{path} has no section `model`, so it describes no CoCa model")
    if content.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{path} has format_version {content.get('format_version')!r}; this version of coca "
            f"reads {FORMAT_VERSION}"
        )
    # Files from before there was a choice do not name it.
    architecture = str(content.get("architecture", "coca"))
    if architecture not in _CONFIGS:
        raise ModelError(
            f"{path} has the architecture {architecture!r}; this version of coca builds "
            f"{' and '.join(_CONFIGS)}"
        )
    # There was a second, plainer kind of head once; models without one say so with a 0.
    if classes := content["model"].pop("num_classes", 0):
        raise ModelError(
            f"{path} has num_classes {classes}: a kind of head that this version of coca does not "
            "build; train the model anew with a `head`"
        )
    try:
        return from_dict(_CONFIGS[architecture], content["model"], source=str(path))
    except ConfigError as error:
        raise ModelError(str(error)) from None


def load_model(
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Captioner:
    """Rebuilds a model from its folder, in evaluation mode.

    Names and shapes are compared with the configuration before any weight is read, so a
    damaged or foreign file costs no memory.

    Args:
        folder: Where `save_model` wrote.
        device: Where the weights go.
        dtype: Type of the weights in memory, whatever they are stored in.

    Raises:
        ModelError: A file is missing or damaged, or does not fit the configuration.
    """
    config = load_config_file(folder)
    path = Path(folder) / WEIGHTS_FILE
    model = build_on_meta(config)
    wanted = _shapes(model.state_dict())
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _compare(path, wanted, stored)
            state = {name: _aligned(_cast(file.get_tensor(name), dtype)) for name in wanted}
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no {WEIGHTS_FILE}: the weights are missing") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or no safetensors file: {error}") from None
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True).eval()


def assemble(config: ModelConfig, state: Mapping[str, Tensor], *, source: str | Path) -> Captioner:
    """Makes a model of weights that are in memory, which it keeps as they are.

    Args:
        config: What the weights belong to.
        state: The weights under our names.
        source: Where they come from, for the error.

    Raises:
        ModelError: They do not fit the configuration.
    """
    model = build_on_meta(config)
    _compare(source, _shapes(model.state_dict()), _shapes(state))
    model.load_state_dict(dict(state), assign=True)
    return model.requires_grad_(True).eval()


def weights_digest(folder: str | Path) -> str:
    """Compute the digest of the weights from the tensors in the file.

    The header of a file that `save_model` wrote states the digest that it had then. If the two
    differ, the weights were edited or damaged since, and a warning is logged.

    Raises:
        ModelError: The file is missing or damaged.
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
        logger.warning(
            "%s: the weights differ from the digest in their header: they were edited or damaged "
            "after they were saved, and count as another model",
            path,
        )
    return computed


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Counts the parameters of each part; no weights are made.

    Returns:
        A count for each part of the model, then `total`, then `total_without_poolers`, the number
        that the paper's Table 1 gives.
    """
    counts: dict[str, int] = {}
    for name, parameter in build_on_meta(config).named_parameters():
        part = name.split(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    total = sum(counts.values())
    poolers = sum(counts.get(name, 0) for name in _POOLERS)
    return {**counts, "total": total, "total_without_poolers": total - poolers}


class _NoDraws(TorchFunctionMode):
    """Leaves tensors without numbers undrawn.

    On the meta device torch draws by way of its compiler, whose import takes as long as torch's.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        is_draw = getattr(func, "__name__", "") in ("normal_", "uniform_")
        if is_draw or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _compare(
    source: str | Path, wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]]
) -> None:
    missing, extra = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
    if missing or extra:
        raise ModelError(
            f"{source} does not fit its configuration: "
            + "; ".join(
                f"{len(names)} tensors {what} (such as {names[0]})"
                for names, what in ((missing, "missing"), (extra, "unknown"))
                if names
            )
        )
    for name, shape in wanted.items():
        if stored[name] != shape:
            raise ModelError(
                f"{source}: {name} has shape {stored[name]}, but the configuration asks for {shape}"
            )


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None else tensor.to(dtype)


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor where matrix products are fast: a file may hold it at any address.

    Products of the same numbers differ in their last bits, too, between aligned memory and other,
    on some processors; a loaded model is to equal the saved one.
    """
    return tensor if tensor.data_ptr() % _ALIGNMENT_BYTES == 0 else tensor.clone()


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        _update(digest, name, state[name])
    return digest.hexdigest()


def _update(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    # The memory of the tensor itself: a copy of a large one takes as long as reading it.
    content: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    digest.update(content)


def model_description(config: ModelConfig) -> dict[str, Any]:
    """Gives parameters and configuration as JSON-able values: the body of `coca info --json`."""
    return {"parameters": count_parameters(config), "config": to_dict(config)}

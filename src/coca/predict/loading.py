"""Load any model by its name: one function for CoCa, exported models and other libraries' models.

    coca.load()                                             the default model, in this package
    coca.load("runs/from-scratch/model")                    a model folder, or its run folder
    coca.load("exported")                                   a folder of `coca export --format onnx`
    coca.load("hf:google/siglip2-base-patch16-224")         a repository of the Hugging Face hub
    coca.load("openclip:coca_ViT-B-32/laion2b_s13b_b90k")   an architecture and tag of OpenCLIP
    coca.load("openclip:ViT-B-32/weights.pt")               a checkpoint for an architecture
    coca.load("downloads/siglip")                           a folder of another library
    coca.load("open_clip_pytorch_model.bin")                a file of OpenCLIP's weights

An existing path takes precedence over a shipped name.
"""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from coca.core.config.execution import DEFAULT, Execution, Precision, check_precision
from coca.core.errors import ConfigError
from coca.core.extras import extra_imports
from coca.model.shipped import DEFAULT_MODEL, is_shipped
from coca.predict.manifest import is_exported
from coca.predict.onnx_predictor import open_exported
from coca.predict.predictor import Predictor
from coca.predict.short_vectors import shorten


def load(
    name: str | Path = DEFAULT_MODEL,
    *,
    device: str | None = None,
    precision: Precision = "fp32",
    batch_size: int | None = None,
    prepack: bool = True,
    dimensions: int | None = None,
) -> Predictor:
    """Load any model by its name; `openclip:` and `hf:` use the network.

    A model of another library embeds and classifies; it has no decoder. In fp32 its vectors are
    those of the library to 1e-6. In other precisions they are close, and JPEG files are decoded at
    a reduced scale. An exported model runs on ONNX Runtime, on the CPU in fp32. So does a shipped
    model where torch is not installed.

    On a CPU, torch then keeps freed memory for the next batch (`coca.core.malloc`), which halves
    the processor time of a ConvNet.

    Args:
        name: A folder with `config.json`, `model.safetensors`, `tokenizer.json` and
            `processor.json`, as `coca pretrain` writes them; a run folder that has such a model;
            an exported model; a model of another library; the name of a shipped model; or open
            weights, which are converted once and cached. Default: the shipped model `everyday`.
        device: A torch device such as `"cuda:0"`; default: the first accelerator, else the CPU.
        precision: Precision of weights and arithmetic; embeddings are always fp32. `auto` is bf16
            where the device multiplies it faster than fp32, else fp32.
        batch_size: Images or texts per batch, at least 1; default: 64, and 16 on ONNX Runtime. On a
            CPU, 64 images of `everyday` at once take 0.8 GB more memory than 16.
        prepack: On a CPU, keep a second copy of the weights in prepacked order. Images take a
            tenth less time, captions up to half. Do not train such a model, nor export it.
        dimensions: Keep the first dimensions of each embedding, and normalize them again; see
            `coca.predict.short_vectors`. Default: all.

    Raises:
        ModelError: A file is missing, damaged, does not fit the others, or cannot be downloaded.
        ConfigError: The precision, device or open weights are unknown, `dimensions` is above the
            size of the embeddings, or an exported model gets a device or precision.
        MissingExtraError: Torch, the library of the model, or the extra `hub` is not installed.
    """
    if not isinstance(name, str | Path):
        raise ConfigError(
            f"load takes the name or the folder of a model, such as {DEFAULT_MODEL!r}, got "
            f"{type(name).__name__}"
        )
    check_precision(precision)
    loaded: Predictor
    if is_exported(name):
        if device not in (None, "cpu") or precision not in ("fp32", "auto"):
            raise ConfigError(
                f"{name} runs on ONNX Runtime on the CPU in fp32, got device {device!r} and "
                f"precision {precision!r}"
            )
        loaded = open_exported(name, batch_size=16 if batch_size is None else batch_size)
    else:
        with extra_imports("torch", extra="torch"):
            from coca.predict.torch_loading import load_on_torch
        loaded = load_on_torch(
            name,
            device=device,
            precision=precision,
            batch_size=64 if batch_size is None else batch_size,
            prepack=prepack,
        )
    return loaded if dimensions is None else shorten(loaded, dimensions)


def load_to_index(name: str | Path, execution: Execution = DEFAULT) -> Predictor:
    """Load a model that embeds many images, and generates no captions.

    On the CPU in fp32, a shipped model runs on ONNX Runtime. `everyday` then embeds 400 photos in
    three quarters of the time of torch (AMD EPYC), and in 0.2 GB in place of 1.5 GB; captions take
    longer than on torch. The fingerprint is the same, and vectors are equal to 1e-5.
    """
    device = execution.device
    on_cpu = device == "cpu" or (device is None and not _has_accelerator())
    if is_shipped(name) and execution.precision in ("fp32", "auto") and on_cpu:
        return open_exported(name)
    return load(name, **vars(execution))


def _has_accelerator() -> bool:
    # The version of a build for the CPU says so; importing torch takes seconds.
    if find_spec("torch") is None or version("torch").endswith("+cpu"):
        return False
    from coca.predict.torch_loading import device_named

    return device_named(None).type != "cpu"

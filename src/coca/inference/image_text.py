"""Load any model by its name: a CoCa, or an image-text model of another library.

coca.load("openclip:ViT-B-16-SigLIP2/webli")            an architecture and tag of OpenCLIP
coca.load("openclip:ViT-B-32/weights.pt")               a checkpoint for an architecture
coca.load("hf:google/siglip2-base-patch16-224")         a repository of transformers or OpenCLIP
coca.load("downloads/siglip")                           a folder of these
"""

from pathlib import Path

from coca.core.errors import ConfigError
from coca.core.extras import extra_imports
from coca.core.files.atomic import files_fingerprint
from coca.core.malloc import keep_freed_memory
from coca.runtime.base_predictor import BasePredictor
from coca.runtime.execution import Precision, check_precision
from coca.runtime.files import check_name, is_exported
from coca.runtime.predictor import load as load_on_onnx
from coca.runtime.short_vectors import shorten
from coca.weights import DEFAULT_MODEL


def load(
    name: str | Path = DEFAULT_MODEL,
    *,
    device: str | None = None,
    precision: Precision = "fp32",
    batch_size: int = 64,
    prepack: bool = True,
    dimensions: int | None = None,
) -> BasePredictor:
    """Load any model by its name: a CoCa, or an image-text model of another library.

    Arguments and errors are those of `coca.inference.loading.load`, which loads CoCa models only.
    A model of another library embeds and classifies; it has no decoder. In fp32 its vectors are
    those of the library to 1e-6. In other precisions they are close, and JPEG files are decoded at
    a reduced scale. `prepack=False` leaves the library's modules as they are, to train or export.
    A folder of `coca export --format onnx` runs on ONNX Runtime, on the CPU in fp32. So does a
    shipped model where torch is not installed.
    """
    check_name(name)
    check_precision(precision)
    if is_exported(name):
        if device not in (None, "cpu") or precision not in ("fp32", "auto"):
            raise ConfigError(
                f"{name} runs on ONNX Runtime on the CPU in fp32, got device {device!r} and "
                f"precision {precision!r}"
            )
        return load_on_onnx(name, batch_size=batch_size, dimensions=dimensions)
    with extra_imports("torch", extra="torch"):
        from coca.inference import loading
        from coca.inference.image_text_predictor import Placement
        from coca.inference.model_kinds import MODELS, library_of, model_files
        from coca.inference.open_weights import model_folder
        from coca.model.pretrained import resolve_precision
    folder = model_folder(name)
    library = library_of(folder)
    if library is None:
        return loading.load(
            folder,
            device=device,
            precision=precision,
            batch_size=batch_size,
            prepack=prepack,
            dimensions=dimensions,
        )
    target = loading.device_named(device)
    if target.type == "cpu":
        keep_freed_memory()
    chosen = resolve_precision(precision, target)
    found = files_fingerprint(folder, model_files(folder))
    placed = Placement(target, chosen, batch_size, found, prepack)
    loaded = MODELS.get(library).load(folder, placed)
    if target.type == "cpu" and prepack:
        loaded.accelerate()
    return loaded if dimensions is None else shorten(loaded, dimensions)

"""Load any model by its name: a CoCa, or an image-text model of another library.

coca.load("openclip:ViT-B-16-SigLIP2/webli")    any architecture and tag of OpenCLIP
coca.load("openclip:ViT-B-32/weights.pt")       a checkpoint for an architecture
coca.load("hf:google/siglip2-base-patch16-224") a repository of transformers or of OpenCLIP
coca.load("downloads/siglip")                   a folder of either
"""

from collections.abc import Callable
from pathlib import Path

from coca.core.malloc import keep_freed_memory
from coca.inference import loading
from coca.inference.image_text_predictor import ImageTextPredictor, Placement
from coca.inference.open_weights import is_image_text, is_openclip
from coca.model.precision import Precision, resolve_precision
from coca.runtime.base_predictor import BasePredictor
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
    A model of another library embeds and classifies; it has no decoder, and no prepacked weights.
    """
    folder = loading.model_folder(name)
    if not is_image_text(folder):
        return loading.load(
            folder,
            device=device,
            precision=precision,
            batch_size=batch_size,
            prepack=prepack,
            dimensions=dimensions,
        )
    loading.check_precision(precision)
    target = loading.device_named(device)
    if target.type == "cpu":
        keep_freed_memory()
    dtype = loading.DTYPES[resolve_precision(precision, target)]
    kind = _kind_of(folder)
    loaded = kind(folder, Placement(target, dtype, batch_size, loading.files_fingerprint(folder)))
    return loaded if dimensions is None else shorten(loaded, dimensions)


def _kind_of(folder: Path) -> Callable[[Path, Placement], ImageTextPredictor]:
    """Return the class that loads a folder; its import needs torch only."""
    if is_openclip(folder):
        from coca.inference.openclip_model import OpenCLIPPredictor

        return OpenCLIPPredictor
    from coca.inference.transformers_model import TransformersPredictor

    return TransformersPredictor

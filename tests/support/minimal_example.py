"""`examples/minimal_coca.py`, the reference that the model and its losses are compared with."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from coca.model.coca_config import CoCaConfig
from coca.model.encoders.vit import ViTConfig

FILE = Path(__file__).parents[2] / "examples" / "minimal_coca.py"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("minimal_coca", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


minimal_coca = _load()


def minimal_model(config: CoCaConfig) -> Any:
    """Build the example's model for a configuration of the library."""
    image, text, pooler = config.image, config.text, config.pooler
    assert isinstance(image, ViTConfig)
    assert image.heads == text.heads == pooler.heads, "the example has one number of heads"
    for tower in (image, text):
        assert tower.mlp_width == 4 * tower.width, "the example's MLP is four times as wide"
    assert (text.pad_id, text.bos_id, text.eos_id, text.cls_id) == (0, 1, 2, 3)
    return minimal_coca.CoCa(
        minimal_coca.Config(
            text.vocab_size,
            image_size=image.image_size,
            patch_size=image.patch_size,
            image_width=image.width,
            image_layers=image.layers,
            text_width=text.width,
            unimodal_layers=text.unimodal_layers,
            multimodal_layers=text.multimodal_layers,
            heads=text.heads,
            queries=pooler.captioning_queries,
            context_length=text.context_length,
            embed_dim=config.embed_dim,
            pooler=pooler.kind,
            tie_embeddings=text.tie_embeddings,
        )
    )

"""Contrastive Captioners (CoCa): search, captions and recognition with one image-text model."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coca.inference.loading import load
    from coca.inference.predictor import Predictor
    from coca.model.coca import CoCa
    from coca.model.config import CoCaConfig
    from coca.search.query.engine import SearchEngine

try:
    # Wheels have the time of their commit as well, see scripts/build_version.py.
    from coca._build import __version__
except ImportError:
    __version__ = "0.5.0.dev0"

__all__ = ["CoCa", "CoCaConfig", "Predictor", "SearchEngine", "__version__", "load"]

_HOMES = {
    "CoCa": "coca.model.coca",
    "CoCaConfig": "coca.model.config",
    "Predictor": "coca.inference.predictor",
    "SearchEngine": "coca.search.query.engine",
    "load": "coca.inference.loading",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: torch takes seconds (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

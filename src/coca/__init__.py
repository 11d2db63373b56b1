"""Contrastive Captioners (CoCa): search, captions and recognition with one image-text model."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coca.model.coca import CoCa
    from coca.model.coca_config import CoCaConfig
    from coca.predict.loading import load
    from coca.predict.predictor import Predictor
    from coca.search.query.engine import SearchEngine
    from coca.search.stores import open_store
    from coca.workflows.collections.index import index

try:
    # Wheels have the time of their commit as well, see scripts/build_version.py.
    from coca._build import __version__
except ImportError:
    __version__ = "0.5.0.dev0"

__all__ = [
    "CoCa",
    "CoCaConfig",
    "Predictor",
    "SearchEngine",
    "__version__",
    "index",
    "load",
    "open_store",
]

_HOMES = {
    "CoCa": "coca.model.coca",
    "CoCaConfig": "coca.model.coca_config",
    "Predictor": "coca.predict.predictor",
    "SearchEngine": "coca.search.query.engine",
    "index": "coca.workflows.collections.index",
    "load": "coca.predict.loading",
    "open_store": "coca.search.stores",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: torch takes seconds (PEP 562)."""
    if name not in _HOMES:
        # Python suggests a similar name of `obj`.
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__])
    from coca.core.extras import extra_imports

    with extra_imports("torch", extra="torch"):
        value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Files by which `AutoModel` and `AutoProcessor` of transformers load a model folder."""

import json
from pathlib import Path

from coca.core.files.atomic import read_json, write_atomic
from coca.model.pretrained import CONFIG_FILE

CODE_FILE = "coca_classes.py"
"""Module of the folder that `auto_map` names."""
_CODE = """\"\"\"Classes of this model; they are part of the package coca-captioners.\"\"\"

from coca.integrations.transformers import CoCaConfig, CoCaModel, CoCaProcessor

__all__ = ["CoCaConfig", "CoCaModel", "CoCaProcessor"]
"""
_CLASSES = {"AutoConfig": "CoCaConfig", "AutoModel": "CoCaModel", "AutoProcessor": "CoCaProcessor"}
_AUTO_MAP = {auto: f"{CODE_FILE.removesuffix('.py')}.{name}" for auto, name in _CLASSES.items()}


def add_auto_map(folder: str | Path) -> None:
    """Add the files of transformers to a model folder; `coca.load` reads it as before.

    Weights are loaded as fp32, also where the folder stores fp16.
    """
    map_model(folder)
    map_processor(folder)


def map_model(folder: str | Path) -> None:
    """Name the classes of configuration and model in `config.json`, and write their module.

    A dtype that the file already states is kept.
    """
    folder = Path(folder)
    content = {
        "dtype": "float32",
        **read_json(folder / CONFIG_FILE),
        "architectures": ["CoCaModel"],
        "auto_map": _AUTO_MAP,
        "model_type": "coca_captioner",
    }
    _write_json(folder / CONFIG_FILE, content)
    write_atomic(folder / CODE_FILE, _CODE.encode())


def map_processor(folder: str | Path) -> None:
    """Name the class of the processor in `processor_config.json`, and write its module."""
    folder = Path(folder)
    _write_json(
        folder / "processor_config.json",
        {"auto_map": {"AutoProcessor": _AUTO_MAP["AutoProcessor"]}},
    )
    write_atomic(folder / CODE_FILE, _CODE.encode())


def _write_json(path: Path, content: object) -> None:
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())

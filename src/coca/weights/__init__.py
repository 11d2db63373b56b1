"""Weights of the model in this package."""

from importlib import resources
from pathlib import Path

DEFAULT_MODEL = "everyday"
"""Name of the model that `coca.load` and all commands use by default."""

FINGERPRINTS = {"everyday": "0ab051c64008bc7172a5f591"}
"""Fingerprints of the models; `coca.load` refuses a model of another fingerprint as damaged."""

TEXT_GRAPHS = {"everyday": "ddfbb19e035bb58184ed86fc188313b290eba02cd1cb6f3436b59dfdcd72efe9"}
"""SHA-256 of each model's `text.onnx`, which `coca.release.onnx.text_graph` writes."""


def shipped() -> dict[str, Path]:
    """Return the models shipped with this package: names to folders."""
    home = Path(str(resources.files("coca") / "weights"))
    return {file.parent.name: file.parent for file in sorted(home.glob("*/config.json"))}

"""Weights of the models in this package, one folder each."""

from importlib import resources
from pathlib import Path

DEFAULT_MODEL = "everyday"
"""Name of the model that `coca.load` and all commands use by default."""

FINGERPRINTS = {"everyday": "9fde353d4956119e428cb7e2", "nano": "cd7e97d8f4dc55e635fba609"}
"""Fingerprints of the models; `coca.load` refuses a model of another fingerprint as damaged."""

TEXT_GRAPHS = {
    "everyday": "72ae1d34ef0d99c9cc527d0b368c8d920d3f4b43aae617ba2d32ba4bf16790c3",
    "nano": "2932f04bc54c4890b3aad365e04862042b87d7b594508a3b27527825922d05c1",
}
"""SHA-256 of each model's `text.onnx`, which `coca.release.onnx.text_graph` writes."""


def shipped() -> dict[str, Path]:
    """Return the models shipped with this package: names to folders."""
    home = Path(str(resources.files("coca") / "weights"))
    return {file.parent.name: file.parent for file in sorted(home.glob("*/config.json"))}

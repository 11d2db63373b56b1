"""Weights of the models in this package, one folder each."""

from importlib import resources
from pathlib import Path

DEFAULT_MODEL = "everyday"
"""Name of the model that `coca.load` and all commands use by default."""

FINGERPRINTS = {"everyday": "d33cd0661c02452572a5f591", "nano": "cd7e97d8f4dc55e635fba609"}
"""Fingerprints of the models; `coca.load` refuses a model of another fingerprint as damaged."""

TEXT_GRAPHS = {
    "everyday": "fbf939a722d25da6337c5a20fa3e095a260c872fa944a2142f52af0534f202a8",
    "nano": "2932f04bc54c4890b3aad365e04862042b87d7b594508a3b27527825922d05c1",
}
"""SHA-256 of each model's `text.onnx`, which `coca.release.onnx.text_graph` writes."""


def shipped() -> dict[str, Path]:
    """Return the models shipped with this package: names to folders."""
    home = Path(str(resources.files("coca") / "weights"))
    return {file.parent.name: file.parent for file in sorted(home.glob("*/config.json"))}

"""Weights of the models in this package, one folder each."""

DEFAULT_MODEL = "everyday"
"""Name of the model that `coca.load` and all commands use by default."""

FINGERPRINTS = {"everyday": "9fde353d4956119e428cb7e2", "nano": "cd7e97d8f4dc55e635fba609"}
"""Fingerprints of the models; `coca.load` refuses a model of another fingerprint as damaged."""

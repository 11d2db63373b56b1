"""Weights of the models in this package, one folder each."""

DEFAULT_MODEL = "everyday"
"""Name of the model that `coca.load` and all commands use by default."""

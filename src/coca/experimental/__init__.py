"""Experimental parts: they work and promise nothing.

Each part is a file or folder here, and comes in as the plug-in of another package would: by a
declaration that pyproject.toml lists as an entry point. All declarations are in this module, which
imports none of the parts. Nothing outside this package imports it.
"""

from coca.core.plugins import Plugin

SENTENCE_TRANSFORMERS = Plugin(
    adds="Image-text models of sentence-transformers, by `st:NAME`.",
    needs=("sentence_transformers",),
    install="coca-captioners[sentence-transformers]",
    models={"st": "coca.experimental.sentence_transformers_models:KIND"},
)

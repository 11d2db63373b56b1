"""Adapters to other libraries: sentence-transformers and transformers."""

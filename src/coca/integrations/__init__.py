"""Adapters to other libraries: sentence-transformers, transformers and LangChain."""

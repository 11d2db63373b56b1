"""Hybrid search: rankings by image, by caption vector and by BM25, and their fusion."""

"""Hybrid search: BM25 over captions, fused with the ranking of vectors."""

"""Query a collection: dense, hybrid and reranked search by text or image."""

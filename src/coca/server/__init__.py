"""REST service over collections: search, items, captions and embeddings, with batches and keys."""

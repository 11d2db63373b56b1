"""Index images: sources, changes since the last run, embedding, writing."""

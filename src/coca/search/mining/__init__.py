"""Use the vectors of a collection: recommendation, duplicates, selection, zero-shot labels."""

"""Approximate nearest neighbor (ANN) search: rows, records, and stable pages of results."""

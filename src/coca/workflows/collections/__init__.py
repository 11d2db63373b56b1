"""Workflows on collections: index, search, watch, mine."""

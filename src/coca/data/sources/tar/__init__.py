"""Tar shards: index, random access to samples, and writing."""

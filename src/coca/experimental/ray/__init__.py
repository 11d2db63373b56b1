"""Embedding of tars by any number of processes, optionally on Ray.

`coca embed-shards "shards/*.tar" --out vectors` writes one Parquet file for each tar, and
`coca index vectors` reads them. Processes share only the output folder; `--on-ray 8` starts eight
workers of a Ray cluster.
"""

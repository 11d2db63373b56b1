"""Embedding of tars by any number of processes, and the service in replicas, optionally on Ray.

`coca embed-shards "shards/*.tar" --out vectors` writes one Parquet file for each tar, and
`coca index vectors` reads them. Processes share only the output folder; `--on-ray 8` starts eight
workers of a Ray cluster. `serve run coca.experimental.ray.serving:application` serves collections
by Ray Serve.
"""

"""Embeds tars as a process that a test can kill: `python tiny_embedding.py MODEL OUT TAR...`."""

import sys

from coca.inference.loading import load
from coca.workflows.embed_shards import embed_shards

if __name__ == "__main__":
    model, out, *tars = sys.argv[1:]
    predictor = load(model, device="cpu")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in embed_shards(tars, predictor, out):
        pass

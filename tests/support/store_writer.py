"""A process that writes to a store until it is killed: `python store_writer.py URI WRITER SEED`."""

import hashlib
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32

from coca.search.records import Origin, Record
from coca.search.sqlite import blocks
from coca.search.store import Store
from coca.search.stores import open_store
from store_changes import patch

DIM = 16
SHARED = "pictures"
"""Collection of all writers."""

State: TypeAlias = dict[str, dict[str, Record]]
"""Records by collection and id."""


def direction(text: str) -> Float32[np.ndarray, " E"]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def record(id: str, value: int) -> Record:
    caption = f"word{value % 7} and word{value % 11}" if value % 5 else ""
    return Record(
        id=id,
        path=f"/{id}.jpg",
        content=f"{value % 50:032x}" if value % 3 else "",
        caption=caption,
        vector=direction(f"{value % 50}" if value % 3 else f"{id} {value}"),
        text_vector=direction(caption) if caption else None,
        time=value,
        origin=Origin(captioned=value % 2 == 0),
    )


@dataclass(frozen=True)
class Operation:
    """One call of a writer, which a kill may interrupt."""

    kind: str
    """`upsert`, `delete`, `patch` or `promote`."""
    writer: int
    ids: tuple[str, ...]
    value: int

    @property
    def own(self) -> str:
        """Name of the collection that only this writer promotes to."""
        return f"own_{self.writer}"

    def records(self) -> list[Record]:
        return [record(id, self.value + row) for row, id in enumerate(self.ids)]

    def after(self, before: State) -> State:
        """Return the state that this call leads to."""
        shared = dict(before[SHARED])
        if self.kind == "promote":
            return before | {self.own: {one.id: one for one in self.records()}}
        if self.kind == "upsert":
            shared |= {one.id: one for one in self.records()}
        elif self.kind == "delete":
            shared = {id: one for id, one in shared.items() if id not in self.ids}
        else:
            changed = {id: replace(shared[id], **self.patch()) for id in self.ids if id in shared}
            shared |= changed
        return before | {SHARED: shared}

    def patch(self) -> dict[str, Any]:
        return {"album": f"album {self.value}", "hidden": self.value % 4 == 0}

    def run(self, store: Store) -> None:
        collection = store.open(SHARED)
        if self.kind == "upsert":
            collection.upsert(self.records())
        elif self.kind == "delete":
            collection.delete(self.ids)
        elif self.kind == "patch":
            patch(collection, {id: self.patch() for id in self.ids})
        else:
            staged = f"staged_{self.writer}"
            if store.has(staged):
                # A killed process left it.
                store.drop(staged)
            store.create(staged, embed_dim=DIM, fingerprint="one").upsert(self.records())
            store.promote(staged, self.own)


def operations(writer: int, seed: int) -> Iterator[Operation]:
    """List the calls of a writer, the same in each process."""
    chance = random.Random(f"{writer} {seed}")
    while True:
        (kind,) = chance.choices(["upsert", "delete", "patch", "promote"], [5, 2, 2, 1])
        numbers = chance.sample(range(60), chance.randint(1, 25))
        yield Operation(
            kind, writer, tuple(f"{writer}-{n}" for n in numbers), chance.randrange(10**6)
        )


def main(uri: str, writer: int, seed: int) -> None:
    """Run the calls of a writer; print a line after each one that returned."""
    with open_store(uri) as store:
        os.write(1, b"open\n")
        for operation in operations(writer, seed):
            operation.run(store)
            os.write(1, b"done\n")


if __name__ == "__main__":
    # So that processes are killed during folds as well.
    blocks.FOLD_ROWS = 30
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

"""Groups of named tensors as safetensors files, whole or in shards that many ranks wrote together.

    GROUP.safetensors               a group that one process wrote
    GROUP/shard-00001-....safetensors   what rank 0 wrote of a group, and so on

A shard's header says where in the whole tensor each of its pieces belongs, so any number of ranks
can read what any other number wrote. Nothing is pickled; nothing but safetensors is read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias, cast

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import save

from coca.core.errors import StorageError

Groups: TypeAlias = Mapping[str, Mapping[str, Tensor]]
"""Tensors by name, by group: `model`, `optimizer`, and whatever else a run keeps."""

SUFFIX = ".safetensors"
_PLACES = "DCP_SHARDING_INFO"
"""The entry of a shard's header that torch's writer makes."""


def write_whole(folder: Path, groups: Groups) -> None:
    """Write each group into one file.

    Raises:
        SafetensorError: A file cannot be written.
    """
    for group, tensors in groups.items():
        content = {name: tensors[name].contiguous() for name in sorted(tensors)}
        save_file(content, folder / f"{group}{SUFFIX}")


def staged(groups: Groups) -> Groups:
    """Copies on the CPU, which training does not change any more."""
    stager = DefaultStager(StagingOptions(*4 * (False,)))
    try:
        return cast(Groups, stager.stage({group: dict(t) for group, t in groups.items()}))
    finally:
        stager.close()


def write_shards(folder: Path, groups: Groups, ranks: distributed.ProcessGroup) -> list[Path]:
    """Write this rank's share of each group; every rank of `ranks` must call it.

    A tensor that several ranks have whole is written by one of them.

    Returns:
        The files of this rank.

    Raises:
        StorageError: Some rank could not write; all of them raise it.
    """
    for group, tensors in groups.items():
        writer = HuggingFaceStorageWriter(str(folder / group), save_distributed=True)
        try:
            save(dict(tensors), storage_writer=writer, process_group=ranks)
        except CheckpointException as error:
            rank, (cause, _) = next(iter(error.failures.items()))
            reason = getattr(cause, "strerror", None) or cause
            raise StorageError(f"rank {rank} cannot write {folder / group}: {reason}") from error
    own = f"shard-{distributed.get_rank(ranks) + 1:05d}-*{SUFFIX}"
    return [path for group in groups for path in sorted((folder / group).glob(own))]


def read_group(folder: Path, group: str) -> dict[str, Tensor]:
    """The whole tensors of a group, on the CPU, as copies that do not hang on the files.

    A group that is not there has no tensors.

    Raises:
        SafetensorError: A file is damaged.
        OSError: The folder or a file cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    names = (path.name for path in folder.iterdir())
    files = [folder / f"{group}{SUFFIX}"] if f"{group}{SUFFIX}" in names else []
    files += sorted((folder / group).glob(f"shard-*{SUFFIX}"))
    sizes = _sizes(files)
    for path in files:
        with safe_open(path, framework="pt") as file:
            places = _places(file.metadata())
            for name in file.keys():  # noqa: SIM118  it is no mapping
                piece = file.get_tensor(name)
                if name not in tensors:
                    tensors[name] = piece.new_empty(sizes[name])
                where = zip(places.get(name, [0] * piece.ndim), piece.shape, strict=True)
                tensors[name][tuple(slice(at, at + count) for at, count in where)] = piece
    return tensors


def _sizes(files: list[Path]) -> dict[str, list[int]]:
    """The size of each whole tensor: as far as the farthest of its pieces reaches."""
    sizes: dict[str, list[int]] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            places = _places(file.metadata())
            for name in file.keys():  # noqa: SIM118
                shape = file.get_slice(name).get_shape()
                at = places.get(name, [0] * len(shape))
                ends = [start + count for start, count in zip(at, shape, strict=True)]
                known = sizes.setdefault(name, ends)
                sizes[name] = [max(pair) for pair in zip(known, ends, strict=True)]
    return sizes


def _places(header: Mapping[str, str] | None) -> dict[str, list[int]]:
    """Where the pieces of a file begin in their whole tensors; none for a file of whole ones."""
    pieces = json.loads((header or {}).get(_PLACES, "{}"))
    return {name: piece["saved_offsets"] for name, piece in pieces.items()}

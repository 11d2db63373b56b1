"""Groups of named tensors as safetensors files, full or sharded over ranks.

    GROUP.safetensors               a group that one process wrote
    GROUP/shard-00001-....safetensors   the shard of rank 0, and so on

A shard's header has the offset of each of its pieces in the full tensor. So any number of ranks
can read what any other number of ranks wrote. Nothing is pickled; only safetensors are read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias, cast

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed

from coca.core.errors import StorageError

Groups: TypeAlias = Mapping[str, Mapping[str, Tensor]]
"""Tensors by name, by group: `model`, `optimizer` and others of a run."""

SUFFIX = ".safetensors"
_SHARD_INFO = "DCP_SHARDING_INFO"
"""Key of the offsets in a shard's header, as written by torch."""


def write_whole(folder: Path, groups: Groups) -> None:
    """Write each group into one file."""
    for group, tensors in groups.items():
        content = {name: tensors[name].contiguous() for name in sorted(tensors)}
        save_file(content, folder / f"{group}{SUFFIX}")


def copy_to_cpu(groups: Groups) -> Groups:
    """Copy tensors to the CPU, so that training does not change them."""
    # Not at the top, here and below: a second of imports, which readers do not need.
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    stager = DefaultStager(StagingOptions(*4 * (False,)))
    try:
        return cast(Groups, stager.stage({group: dict(t) for group, t in groups.items()}))
    finally:
        stager.close()


def write_shards(folder: Path, groups: Groups, ranks: distributed.ProcessGroup) -> list[Path]:
    """Write this rank's shards of each group; every rank of `ranks` must call it.

    A replicated tensor is written by one rank.

    Returns:
        The files of this rank.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

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
    """Read the full tensors of a group to the CPU, as copies independent of the files.

    A missing group has no tensors.
    """
    tensors: dict[str, Tensor] = {}
    names = (path.name for path in folder.iterdir())
    files = [folder / f"{group}{SUFFIX}"] if f"{group}{SUFFIX}" in names else []
    files += sorted((folder / group).glob(f"shard-*{SUFFIX}"))
    sizes = _sizes(files)
    for path in files:
        with safe_open(path, framework="pt") as file:
            offsets = _offsets(file.metadata())
            for name in file.keys():  # noqa: SIM118  not a mapping
                piece = file.get_tensor(name)
                if name not in tensors:
                    tensors[name] = piece.new_empty(sizes[name])
                where = zip(offsets.get(name, [0] * piece.ndim), piece.shape, strict=True)
                tensors[name][tuple(slice(at, at + count) for at, count in where)] = piece
    return tensors


def _sizes(files: list[Path]) -> dict[str, list[int]]:
    """Compute the shape of each full tensor from the ends of its pieces."""
    sizes: dict[str, list[int]] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            offsets = _offsets(file.metadata())
            for name in file.keys():  # noqa: SIM118
                shape = file.get_slice(name).get_shape()
                at = offsets.get(name, [0] * len(shape))
                ends = [start + count for start, count in zip(at, shape, strict=True)]
                known = sizes.setdefault(name, ends)
                sizes[name] = [max(pair) for pair in zip(known, ends, strict=True)]
    return sizes


def _offsets(header: Mapping[str, str] | None) -> dict[str, list[int]]:
    """Parse the offsets of a file's pieces in their full tensors; empty for full tensors."""
    pieces = json.loads((header or {}).get(_SHARD_INFO, "{}"))
    return {name: piece["saved_offsets"] for name, piece in pieces.items()}

"""Groups of named tensors as safetensors files, full or sharded over ranks.

    GROUP.safetensors               a group that one process wrote
    GROUP/shard-00001-....safetensors   the shard of rank 0, and so on

A shard's header has the offset of each of its pieces in the full tensor. So any number of ranks
can read what any other number of ranks wrote, each only the parts that it needs. Files are read
and not mapped: mapped pages would count as memory of the process. Nothing is pickled.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import _getdtype, save_file
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


class TensorPart(NamedTuple):
    """A part of a full tensor, to be read from files."""

    tensor: Tensor
    """Where the part is copied to, on any device."""
    offsets: Sequence[int]
    """Position of the part's first element in the full tensor."""


class Description(NamedTuple):
    """Type and shape of a full tensor in files."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def read_group(folder: Path, group: str) -> dict[str, Tensor]:
    """Read the full tensors of a group to the CPU, as copies independent of the files.

    A missing group has no tensors.
    """
    tensors = {
        name: torch.empty(description.shape, dtype=description.dtype)
        for name, description in describe_group(folder, group).items()
    }
    read_parts(folder, group, {name: TensorPart(t, [0] * t.ndim) for name, t in tensors.items()})
    return tensors


def describe_group(folder: Path, group: str) -> dict[str, Description]:
    """Read the names, types and shapes of a group's full tensors from the headers of its files."""
    found: dict[str, Description] = {}
    for path in _files(folder, group):
        with path.open("rb") as file:
            for piece in _pieces(file):
                ends = [start + size for start, size in zip(*piece[2:4], strict=True)]
                known = found[piece.name].shape if piece.name in found else ends
                shape = tuple(max(pair) for pair in zip(known, ends, strict=True))
                found[piece.name] = Description(piece.dtype, shape)
    return found


@torch.no_grad()
def read_parts(
    folder: Path, group: str, parts: Mapping[str, TensorPart], *, start: float = 0.0
) -> None:
    """Read parts of the tensors of a group, with one piece at a time in memory.

    Files are opened until all parts are complete. `start` is the position of the first file, as a
    fraction of all: a rank finds its parts in its own file if as many ranks wrote the group.
    """
    files = _files(folder, group)
    first = int(start * len(files))
    missing = {name: part.tensor.numel() for name, part in parts.items() if part.tensor.numel()}
    for path in files[first:] + files[:first]:
        if not missing:
            return
        with path.open("rb") as file:
            for piece in _pieces(file):
                if piece.name in missing:
                    missing[piece.name] -= _copy_overlap(file, piece, parts[piece.name])
        missing = {name: count for name, count in missing.items() if count}
    if missing:
        name, count = next(iter(missing.items()))
        raise SafetensorError(f"the files of {group} lack {count} elements of {name}")


class _Piece(NamedTuple):
    """A piece of a tensor in a file."""

    name: str
    dtype: torch.dtype
    offsets: list[int]
    """Position of its first element in the full tensor."""
    shape: list[int]
    begin: int
    """Position of its first byte in the file."""


def _files(folder: Path, group: str) -> list[Path]:
    names = (path.name for path in folder.iterdir())
    whole = [folder / f"{group}{SUFFIX}"] if f"{group}{SUFFIX}" in names else []
    return whole + sorted((folder / group).glob(f"shard-*{SUFFIX}"))


def _pieces(file: BinaryIO) -> Iterator[_Piece]:
    """Read the header of a safetensors file; pieces come in the order of the file."""
    try:
        size = int.from_bytes(_read(file, 0, 8), "little")
        header: dict[str, Any] = json.loads(_read(file, 8, size))
        # Offsets in full tensors; a file that one process wrote has full tensors only.
        sharding = json.loads(header.pop("__metadata__", {}).get(_SHARD_INFO, "{}"))
        pieces = [
            _Piece(
                name,
                _getdtype(entry["dtype"]),
                sharding.get(name, {}).get("saved_offsets", [0] * len(entry["shape"])),
                entry["shape"],
                8 + size + entry["data_offsets"][0],
            )
            for name, entry in header.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise SafetensorError(f"{file.name} has no header of safetensors: {error}") from error
    yield from sorted(pieces, key=lambda piece: piece.begin)


def _copy_overlap(file: BinaryIO, piece: _Piece, part: TensorPart) -> int:
    """Copy what a piece and a part have in common; return the number of elements."""
    # A scalar is read as a row of one element.
    tensor = part.tensor if part.tensor.ndim else part.tensor.reshape(1)
    shape, offsets = piece.shape or [1], piece.offsets or [0]
    begins = [max(pair) for pair in zip(offsets, part.offsets or [0], strict=True)]
    ends = [
        min(start + size, other + count)
        for start, size, other, count in zip(
            offsets, shape, part.offsets or [0], tensor.shape, strict=True
        )
    ]
    if any(end <= begin for begin, end in zip(begins, ends, strict=True)):
        return 0
    # Whole rows of the piece are contiguous in the file.
    row = math.prod(shape[1:]) * piece.dtype.itemsize
    begin = piece.begin + (begins[0] - offsets[0]) * row
    content = _read(file, begin, (ends[0] - begins[0]) * row)
    rows = torch.frombuffer(content, dtype=piece.dtype).reshape(-1, *shape[1:])
    there = tuple(
        slice(begin - start, end - start)
        for begin, end, start in zip(begins, ends, part.offsets or [0], strict=True)
    )
    here = tuple(
        slice(begin - start, end - start)
        for begin, end, start in zip(begins[1:], ends[1:], offsets[1:], strict=True)
    )
    tensor[there] = rows[(slice(None), *here)].to(tensor.device)
    return math.prod(end - begin for begin, end in zip(begins, ends, strict=True))


def _read(file: BinaryIO, position: int, size: int) -> bytearray:
    """Read exactly `size` bytes."""
    file.seek(0, 2)
    if position + size > file.tell():
        raise SafetensorError(f"{file.name} ends before byte {position + size}")
    file.seek(position)
    content = bytearray(size)
    file.readinto(content)  # type: ignore[attr-defined]
    return content

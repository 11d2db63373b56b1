import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from coca.model.sharded_safetensors import copy_to_cpu, read_group, write_whole
from tiny_ranks import on_ranks
from tiny_shards import WHOLE, write, write_into_a_file


@pytest.mark.distributed
@pytest.mark.parametrize("count", [2, 4])
def test_what_ranks_write_in_pieces_is_read_as_a_whole(tmp_path: Path, count: int) -> None:
    written = on_ranks(count, tmp_path, partial(write, tmp_path / "saved"))
    read = read_group(tmp_path / "saved", "model")
    assert read.keys() == WHOLE.keys()
    for name, tensor in WHOLE.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name
    assert torch.equal(read_group(tmp_path / "saved", "ema")["even"], WHOLE["even"])
    assert read_group(tmp_path / "saved", "optimizer") == {}
    reported = [path for paths in written for path in paths]
    there = [path for path in (tmp_path / "saved").rglob("*") if path.is_file()]
    assert sorted(reported) == sorted(str(path.relative_to(tmp_path / "saved")) for path in there)


@pytest.mark.distributed
def test_what_one_rank_cannot_write_raises_on_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    reported = on_ranks(2, tmp_path, partial(write_into_a_file, tmp_path))
    for words in reported:
        assert words.startswith("rank 1 cannot write ")
        assert words.endswith("Not a directory")


def test_cpu_copies_do_not_change() -> None:
    tensor = torch.zeros(3)
    copy = copy_to_cpu({"model": {"weight": tensor}})
    tensor.add_(1)
    assert torch.equal(copy["model"]["weight"], torch.zeros(3))


def test_whole_groups_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_whole(tmp_path, {"model": WHOLE, "ema": {"even": WHOLE["even"] + 1}})
    read = read_group(tmp_path, "model")
    assert read.keys() == WHOLE.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in WHOLE.items())
    assert torch.equal(read_group(tmp_path, "ema")["even"], WHOLE["even"] + 1)


def test_damage_is_an_error_and_an_absent_group_is_empty(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(SafetensorError):
        read_group(tmp_path, "model")
    assert read_group(tmp_path, "ema") == {}
    with pytest.raises(FileNotFoundError):
        read_group(tmp_path / "nowhere", "model")


def test_a_shard_without_offsets_holds_whole_tensors(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    offsets = {"low": {"saved_offsets": [2]}}
    low, other = torch.ones(2), torch.ones(3)
    save_file(
        {"low": low, "other": other},
        tmp_path / "model" / "shard-1.safetensors",
        metadata={"DCP_SHARDING_INFO": json.dumps(offsets)},
    )
    save_file({"low": 2 * torch.ones(2)}, tmp_path / "model" / "shard-2.safetensors")
    read = read_group(tmp_path, "model")
    assert torch.equal(read["low"], torch.tensor([2.0, 2.0, 1.0, 1.0]))
    assert torch.equal(read["other"], other)

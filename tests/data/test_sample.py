import pickle

import pytest
import torch

from coca.core.errors import DataError
from coca.data.sample import BadSample, Batch, parse_record, parse_text, split_record


def test_captions_labels_and_metadata_are_told_apart() -> None:
    record = {"captions": ["one", "two"], "label": 7, "url": "http://x", "width": 3}
    assert split_record(record, "a.json") == (
        ("one", "two"),
        ("7",),
        {"url": "http://x", "width": 3},
    )


@pytest.mark.parametrize("empty", [None, "", []])
def test_a_name_that_holds_nothing_leaves_the_turn_to_the_next(empty: object) -> None:
    assert split_record({"captions": empty, "caption": "a car"}, "a.json")[0] == ("a car",)


@pytest.mark.parametrize("wrong", [3.5, {"en": "a car"}, ["a", None]])
def test_a_caption_that_is_no_text_is_bad(wrong: object) -> None:
    with pytest.raises(DataError, match=r"'caption' of a\.json .* right is a text") as caught:
        split_record({"caption": wrong}, "a.json")
    assert caught.value.reason == "bad_record"


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe\xfd", b"[" * 100_000])
def test_a_record_that_is_no_json_object_is_bad(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^a\.json ") as caught:
        parse_record(content, "a.json")
    assert caught.value.reason == "bad_record"


def test_text_that_is_not_utf8_is_bad() -> None:
    with pytest.raises(DataError, match=r"a\.txt is not UTF-8"):
        parse_text(b"\xff", "a.txt")


def test_a_batch_moves_and_travels_between_processes() -> None:
    bad = BadSample("k", "s", 3, "truncated", "it ends early")
    batch = Batch(
        torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, dtype=torch.int64), ("a", "b"), 6, bad=(bad,)
    )
    for copy in (batch.to("cpu"), pickle.loads(pickle.dumps(batch))):
        assert (copy.keys, copy.start, copy.bad, copy.class_targets) == (
            ("a", "b"),
            6,
            (bad,),
            None,
        )


def test_a_batch_moves_with_all_of_its_tensors() -> None:
    tensors = (torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, dtype=torch.int64), torch.zeros(2, 5))
    moved = Batch(tensors[0], tensors[1], ("a", "b"), 0, class_targets=tensors[2]).to("meta")
    assert moved.class_targets is not None
    assert {
        moved.images.device.type,
        moved.tokens.device.type,
        moved.class_targets.device.type,
    } == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs CUDA")
def test_a_batch_is_pinned_with_all_of_its_tensors() -> None:
    tensors = (torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, dtype=torch.int64), torch.zeros(2, 5))
    pinned = Batch(tensors[0], tensors[1], ("a", "b"), 0, class_targets=tensors[2]).pin_memory()
    assert pinned.class_targets is not None
    assert pinned.images.is_pinned()
    assert pinned.tokens.is_pinned()
    assert pinned.class_targets.is_pinned()

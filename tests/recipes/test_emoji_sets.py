from collections import Counter
from pathlib import Path

import pytest

from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from emoji_sets import SETS, WORDS, Concept, PackedSets, choose_held_out, pack_sets
from tiny_emoji import write_packages

pytest.importorskip("resvg_py", reason="the extra `drawings` is not installed")

HELD_OUT = 4


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packages(tmp_path_factory.mktemp("npm") / "node_modules")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> PackedSets:
    out = tmp_path_factory.mktemp("sets") / "data"
    return pack_sets(out, packages, size_px=24, held_out=HELD_OUT)


def samples(packed: PackedSets, pattern: str) -> list[Sample]:
    if not list(packed.folder.glob(pattern)):
        return []
    source = open_source(ShardsConfig(path=str(packed.folder / pattern)))
    return [source.read(row) for row in range(len(source))]


def codes(packed: PackedSets, pattern: str) -> set[str]:
    return {it.metadata["codepoints"] for it in samples(packed, pattern)}


def concepts(**groups: int) -> list[Concept]:
    return [
        Concept(f"{group}{number}", "label", (), group, "s", toned=False)
        for group, count in groups.items()
        for number in range(count)
    ]


def test_the_unseen_vendor_is_never_trained_on(packed: PackedSets) -> None:
    train = samples(packed, "train/*.tar")
    assert Counter(it.metadata["vendor"] for it in train).keys() == {"noto", "twemoji", "fluent"}
    assert {it.metadata["vendor"] for it in samples(packed, "test/*.tar")} == {"openmoji"}


def test_held_out_concepts_are_in_no_training_and_in_every_set(packed: PackedSets) -> None:
    held_out = codes(packed, "heldout/noto-*.tar")
    assert len(held_out) == packed.held_out == HELD_OUT
    for name in ("twemoji", "fluent-flat", "fluent-3d", "openmoji"):
        assert codes(packed, f"heldout/{name}-*.tar") == held_out
    assert not held_out & codes(packed, "train/*.tar")
    assert not held_out & codes(packed, "test/*.tar")


def test_every_drawing_of_every_set_is_somewhere_and_only_once(packed: PackedSets) -> None:
    keys = [
        it.key for split in ("train", "test", "heldout") for it in samples(packed, f"{split}/*.tar")
    ]
    assert len(keys) == len(set(keys)) == sum(packed.samples.values()) == 5 * 17 - 2
    assert packed.concepts == 17
    assert packed.samples["train/noto"] == 16 - HELD_OUT
    assert packed.samples["test/openmoji"] == 17 - HELD_OUT


def test_shared_concepts_are_drawn_by_all_vendors_without_tones_and_symbols(
    packed: PackedSets,
) -> None:
    shared = codes(packed, "test/openmoji-shared-*.tar") | codes(
        packed, "heldout/openmoji-shared-*.tar"
    )
    # The first animal is one of them: only the set without vectors lacks it.
    assert len(shared) == packed.shared == 14
    assert "1f400" in shared
    assert not {"1f48f", "2795", "1f1f5-1f1ea"} & shared
    for sample in samples(packed, "train/*.tar"):
        assert sample.metadata["shared"] == (sample.metadata["codepoints"] in shared)


def test_packed_again_every_tar_is_the_same(
    packed: PackedSets, packages: Path, tmp_path: Path
) -> None:
    again = pack_sets(tmp_path / "again", packages, size_px=24, held_out=HELD_OUT)
    for path in packed.folder.rglob("*.tar"):
        twin = again.folder / path.relative_to(packed.folder)
        assert twin.read_bytes() == path.read_bytes()


def test_each_group_but_flags_gives_its_share_to_the_held_out() -> None:
    chosen = choose_held_out(concepts(faces=60, animals=30, food=10, flags=50), count=10)
    groups = Counter(code.rstrip("0123456789") for code in chosen)
    assert groups == {"faces": 6, "animals": 3, "food": 1}


def test_no_set_is_the_one_that_is_kept_for_outside_checks() -> None:
    assert not any("emojione" in it.package for it in SETS)
    assert {it.vendor for it in SETS} == {"noto", "twemoji", "fluent", "openmoji"}
    for one in (*SETS, WORDS):
        assert one.version.count(".") == 2
        assert one.licence in ("Apache-2.0", "MIT", "CC-BY-4.0", "CC-BY-SA-4.0")

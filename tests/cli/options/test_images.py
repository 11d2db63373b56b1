from collections.abc import Sequence
from pathlib import Path

import pytest

from coca.cli.options.images import Bad, find, work_through
from coca.core.errors import ConfigError, DataError


@pytest.fixture
def files(images: list[str]) -> list[str]:
    for name in ("photos/deep/4.JPG", "photos/.hidden.png", "photos/.trash/5.png", "photos/a.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"")
    return [*images, "photos/deep/4.JPG"]


def test_folders_and_patterns_expand_to_the_images_within(files: list[str]) -> None:
    assert find(["photos"]) == files
    assert find(["photos/*.png"]) == files[:3]
    assert find(["photos/**/4.*"]) == files[3:]
    assert find(["ph*"]) == files


def test_an_archive_is_refused_with_what_to_do(cwd: Path) -> None:
    Path("a.zip").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"a\.zip is an archive.* `coca index a\.zip`"):
        find(["a.zip"])


def test_a_name_that_fits_nothing_is_kept_and_reported(files: list[str]) -> None:
    assert find(["none.png", "none*.png"]) == ["none.png", "none*.png"]


def test_folders_without_images_are_a_wrong_call(cwd: Path) -> None:
    Path("empty").mkdir()
    with pytest.raises(ConfigError, match="no image in empty"):
        find(["empty"])
    assert find([]) == []


def test_a_pattern_that_fits_nothing_is_reported_as_one(cwd: Path) -> None:
    def work(batch: Sequence[str]) -> list[str]:
        raise DataError("it is bad")

    (outcome,) = work_through(["x*.png"], work, batch_size=1, title="x")
    assert outcome == Bad("x*.png", "no file fits the pattern x*.png")


def test_an_error_that_no_image_causes_is_passed_on(images: list[str]) -> None:
    def work(batch: Sequence[str]) -> list[str]:
        raise DataError("the prompt contains a lone surrogate")

    with pytest.raises(DataError, match="prompt"):
        work_through(images, work, batch_size=2, title="x")


def test_what_can_be_read_but_not_used_does_not_stop_the_others(images: list[str]) -> None:
    Path("photos/bad.png").write_bytes(b"no image")

    def work(batch: Sequence[str]) -> list[str]:
        for path in batch:
            if path in ("photos/bad.png", images[1]):
                raise DataError(f"{path} is a video")
        return [path.upper() for path in batch]

    paths = [*images, "photos/bad.png"]
    outcomes = work_through(paths, work, batch_size=9, title="x")
    assert outcomes[0] == images[0].upper()
    assert outcomes[1] == Bad(images[1], f"{images[1]} is a video")
    assert outcomes[2:-1] == [path.upper() for path in images[2:]]
    assert isinstance(outcomes[-1], Bad)

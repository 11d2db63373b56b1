"""A rank that resumes reads its own shards: memory and bytes, by the operating system's count."""

import sys
from functools import partial

import pytest

from resume_memory import Measured, first_step, resume
from tiny_ranks import on_ranks

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


@pytest.fixture(scope="module", params=[2, 4])
def ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Measured]:
    folder = tmp_path_factory.mktemp("ranks")
    on_ranks(request.param, folder, partial(first_step, folder / "run"))
    return on_ranks(request.param, folder, partial(resume, folder / "run"))


def test_a_rank_that_starts_and_resumes_needs_little_more_memory_than_its_shards(
    ranks: list[Measured],
) -> None:
    for measured in ranks:
        assert measured["step"] == 1
        assert measured["grown"] < 1.3 * measured["shards"]


def test_a_rank_verifies_and_reads_a_share_of_the_files(ranks: list[Measured]) -> None:
    for measured in ranks:
        # Once to hash a share of all files, once to read its shards. A tenth is for headers.
        assert measured["read"] < 2.1 * measured["shards"]

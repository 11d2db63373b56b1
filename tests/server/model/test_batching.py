"""Batches of requests, without any load."""

from coca.server.model.batching import Batcher

FOREVER_S = 3_600.0


def test_a_single_client_waits_for_nobody() -> None:
    sizes: list[int] = []
    batcher: Batcher[int, int] = Batcher(
        lambda items: [-item for item in items],
        max_batch=8,
        wait_s=FOREVER_S,
        queue_size=8,
        observe=sizes.append,
    )
    assert [batcher.map([number]) for number in range(5)] == [[-number] for number in range(5)]
    batcher.close()
    assert sizes == [1] * 5

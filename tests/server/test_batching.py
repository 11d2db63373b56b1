"""Batches of requests, without any load."""

import threading
from collections.abc import Sequence

import pytest

from coca.core.cancellation import cancelled_by
from coca.server.errors import ServiceError
from coca.server.served_model import Batcher
from coca.server.turns import Turns, of_key

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


def test_a_call_of_many_items_has_at_most_one_batch_in_the_queue() -> None:
    waiting: list[int] = []
    batches: list[Sequence[int]] = []

    def run(items: Sequence[int]) -> Sequence[int]:
        waiting.append(batcher.waiting)
        batches.append(items)
        return items

    batcher: Batcher[int, int] = Batcher(run, max_batch=4, wait_s=0.0, queue_size=64)
    assert batcher.map(range(40)) == list(range(40))
    batcher.close()
    assert max(waiting) <= 4
    assert [one for items in batches for one in items] == list(range(40))


def test_items_that_arrive_during_a_batch_form_the_next_batch() -> None:
    sizes: list[int] = []
    started, go_on = threading.Event(), threading.Event()

    def double(items: Sequence[int]) -> list[int]:
        started.set()
        assert go_on.wait(60)
        return [2 * item for item in items]

    batcher: Batcher[int, int] = Batcher(
        double, max_batch=4, wait_s=0.0, queue_size=8, observe=sizes.append
    )
    results: dict[int, list[int]] = {}

    def start(*items: int) -> threading.Thread:
        thread = threading.Thread(target=lambda: results.update({items[0]: batcher.map(items)}))
        thread.start()
        return thread

    threads = [start(1)]
    assert started.wait(60)
    threads.append(start(2, 3, 4, 5))
    while batcher.waiting < 4:
        threading.Event().wait(0.001)
    threads.append(start(7, 8, 9, 10))
    while batcher.waiting < 8:
        threading.Event().wait(0.001)
    with pytest.raises(ServiceError, match="8 items") as caught:
        batcher.map([12])
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1)
    go_on.set()
    for thread in threads:
        thread.join()
    batcher.close()
    assert results == {1: [2], 2: [4, 6, 8, 10], 7: [14, 16, 18, 20]}
    assert sizes == [1, 4, 4]


def test_an_error_of_a_batch_reaches_every_caller() -> None:
    def fail(items: Sequence[int]) -> list[int]:
        raise ValueError("no")

    batcher: Batcher[int, int] = Batcher(fail, max_batch=4, wait_s=0.0, queue_size=8)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            batcher.map([1, 2])
    batcher.close()


def test_a_full_queue_of_a_key_leaves_room_for_another() -> None:
    batches: list[list[int]] = []
    started, go_on = threading.Event(), threading.Event()

    def run(items: Sequence[int]) -> Sequence[int]:
        batches.append([*items])
        started.set()
        assert go_on.wait(60)
        return items

    batcher: Batcher[int, int] = Batcher(run, max_batch=4, wait_s=0.0, queue_size=8)

    def start(key: str, *items: int) -> threading.Thread:
        def work() -> None:
            with of_key(key):
                assert batcher.map(items) == [*items]

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    threads = [start("anna", 0)]
    assert started.wait(60)
    threads += [start("anna", 1, 2, 3, 4), start("anna", 5, 6, 7, 8)]
    while batcher.waiting < 8:
        threading.Event().wait(0.001)
    threads.append(start("bert", 10))
    while batcher.waiting < 9:
        threading.Event().wait(0.001)
    go_on.set()
    for thread in threads:
        thread.join()
    batcher.close()
    assert 10 in batches[1]
    assert sorted(one for items in batches for one in items) == [*range(9), 10]


def test_keys_take_turns_however_many_requests_one_has() -> None:
    turns, order = Turns(), []

    def take(key: str) -> None:
        with of_key(key), turns:
            order.append(key)

    threads = [threading.Thread(target=take, args=(key,)) for key in "aaaabcb"]
    with turns:
        for number, thread in enumerate(threads):
            thread.start()
            while turns.waiting <= number:
                threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    assert "".join(order) == "abcabaa"


def test_a_request_that_nobody_waits_for_takes_no_turn() -> None:
    turns = Turns()

    def check() -> None:
        raise ServiceError("the client has left", status=499, code="client_left")

    with pytest.raises(ServiceError), cancelled_by(check), turns:
        raise AssertionError
    # The next one finds the lock free.
    with turns:
        assert turns.waiting == 0


def test_threads_take_turns_in_the_order_in_which_they_asked() -> None:
    turns, order = Turns(), []
    asked = threading.Semaphore(0)

    def take(number: int) -> None:
        asked.release()
        with turns:
            order.append(number)

    with turns:
        threads = []
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            asked.acquire()
            # The next thread asks after this one, which does nothing in between.
            while turns.waiting <= number:
                threading.Event().wait(0.001)
    # This thread asks again at once, and comes last.
    with turns:
        order.append(5)
    for thread in threads:
        thread.join()
    assert order == list(range(6))

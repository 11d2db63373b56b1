import threading
import time
from collections.abc import Iterator

import pytest

from coca.core.prefetch import iterate_ahead, map_ahead


def test_results_come_in_order_whichever_thread_is_first() -> None:
    def slow_if_even(number: int) -> int:
        time.sleep(0.01 * (number % 2 == 0))
        return -number

    assert list(map_ahead(slow_if_even, range(20), threads=4, ahead=7)) == [-n for n in range(20)]


def test_work_runs_ahead_but_not_too_far() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    results = map_ahead(lambda number: number, items(), threads=2, ahead=5)
    assert next(results) == 0
    assert len(taken) == 6
    results.close()  # type: ignore[attr-defined]
    assert len(taken) == 6


def test_an_error_is_raised_at_the_position_of_its_item() -> None:
    def refuse(number: int) -> int:
        if number == 2:
            raise ValueError(f"{number} is refused")
        return number

    results = map_ahead(refuse, range(5), threads=3, ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="2 is refused"):
        next(results)


def test_an_iterable_is_taken_by_a_thread_of_its_own_and_in_order() -> None:
    takers = set()

    def items() -> Iterator[int]:
        for number in range(30):
            takers.add(threading.get_ident())
            yield number

    assert list(iterate_ahead(items(), ahead=3)) == list(range(30))
    assert len(takers) == 1
    assert threading.get_ident() not in takers


def test_an_iterables_own_fault_comes_after_what_it_gave() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("gone")

    ahead = iterate_ahead(items(), ahead=3)
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="gone"):
        next(ahead)


def test_whoever_stops_early_ends_the_thread() -> None:
    before = {*threading.enumerate()}
    ahead = iterate_ahead(iter(range(10**9)), ahead=2)
    assert next(ahead) == 0
    assert len({*threading.enumerate()} - before) == 1
    ahead.close()  # type: ignore[attr-defined]
    assert {*threading.enumerate()} <= before

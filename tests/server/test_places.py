"""Tenants share the threads of the service, and work ends when nobody waits for it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import Message

from coca.core.cancellation import check_cancelled
from coca.server.errors import ServiceError
from coca.server.keys import KeyConfig
from coca.server.places import TENANT_THREADS, Places

ANNA, BERT = KeyConfig(name="anna"), KeyConfig(name="bert")


def test_a_key_with_many_requests_leaves_threads_to_another() -> None:
    async def run() -> None:
        places, go_on = Places(timeout_s=60.0), asyncio.Event()
        places.open([ANNA, BERT], max_connections=1_000)
        inside: list[str] = []

        async def request(key: KeyConfig) -> None:
            async with places.place(key):
                inside.append(key.name)
                await go_on.wait()

        many = [asyncio.create_task(request(ANNA)) for _ in range(3 * TENANT_THREADS)]
        await asyncio.sleep(0)
        another = asyncio.create_task(request(BERT))
        while "bert" not in inside:
            await asyncio.sleep(0.001)
        assert inside.count("anna") == TENANT_THREADS
        go_on.set()
        await asyncio.gather(*many, another)
        assert inside.count("anna") == 3 * TENANT_THREADS

    asyncio.run(run())


def test_a_key_takes_a_quarter_of_the_connections_at_most() -> None:
    async def run() -> list[int]:
        places, go_on = Places(timeout_s=60.0), asyncio.Event()
        places.open([ANNA, BERT], max_connections=400)

        async def request(key: KeyConfig) -> int:
            try:
                async with places.place(key):
                    await go_on.wait()
                    return 200
            except ServiceError as error:
                return error.status

        many = [asyncio.create_task(request(ANNA)) for _ in range(150)]
        await asyncio.sleep(0)
        another = asyncio.create_task(request(BERT))
        await asyncio.sleep(0)
        go_on.set()
        assert await another == 200
        answers = await asyncio.gather(*many)
        # Nothing is counted twice, or kept, after the rejections.
        assert await request(ANNA) == 200
        return answers

    answers = asyncio.run(run())
    assert (answers.count(200), answers.count(429)) == (100, 50)


async def never() -> Message:
    await asyncio.Event().wait()
    return {}


async def left() -> Message:
    return {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("timeout_s", "receive", "status"), [(0.0, never, 503), (60.0, left, 499), (60.0, never, None)]
)
def test_work_ends_when_nobody_waits_for_it(
    timeout_s: float, receive: Callable[[], Awaitable[Message]], status: int | None
) -> None:
    async def run() -> None:
        async with Places(timeout_s=timeout_s).place(ANNA, receive):
            await asyncio.sleep(0.01)
            await asyncio.to_thread(check_cancelled)

    if status is None:
        asyncio.run(run())
    else:
        with pytest.raises(ServiceError) as caught:
            asyncio.run(run())
        assert caught.value.status == status


def test_work_ends_some_time_after_the_service_stops() -> None:
    async def run(places: Places) -> None:
        async with places.place(ANNA):
            check_cancelled()
            places.end(within_s=3_600.0)
            check_cancelled()
            places.end(within_s=0.0)
            await asyncio.sleep(0.01)
            check_cancelled()

    places = Places(timeout_s=60.0)
    for _ in range(2):
        # Also a request that was waiting.
        with pytest.raises(ServiceError, match="the service stops") as caught:
            asyncio.run(run(places))
        assert (caught.value.status, caught.value.retry_after_s) == (503, 10)

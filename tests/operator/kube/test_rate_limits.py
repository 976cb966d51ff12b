from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_operator.kube.rate_limits import Backoff, TokenBucket
from tests.operator.runtime.virtual_time import run


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60), st.floats(0.5, 20), st.integers(1, 10))
def test_never_more_than_the_burst_and_the_rate_and_never_later_than_needed(
    pauses: list[float], rate: float, burst: int
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        bucket = TokenBucket(rate, burst, clock=loop.time)
        asked: list[float] = []
        given_at: list[float] = []

        async def ask() -> None:
            await bucket.acquire()
            given_at.append(loop.time())

        tasks = []
        for pause in pauses:
            await asyncio.sleep(pause)
            asked.append(loop.time())
            tasks.append(asyncio.create_task(ask()))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        for first in range(len(given_at)):
            for last in range(first, len(given_at)):
                window = given_at[last] - given_at[first]
                assert last - first + 1 <= burst + rate * window + 1e-3
        tokens, counted = float(burst), asked[0]
        for number, at in enumerate(asked):
            tokens = min(float(burst), tokens + (at - counted) * rate) - 1
            counted = at
            assert given_at[number] == pytest.approx(at + max(0.0, -tokens / rate), abs=1e-3)

    run(main())


def test_who_gives_up_leaves_its_place_to_the_others() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        bucket = TokenBucket(1.0, 1, clock=loop.time)
        await bucket.acquire()
        waiting = asyncio.create_task(bucket.acquire())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        started = loop.time()
        await bucket.acquire()
        assert loop.time() - started == pytest.approx(1.0)
        assert not bucket.try_acquire()
        await asyncio.sleep(1)
        assert bucket.try_acquire()

    run(main())


def test_delays_double_up_to_a_limit_and_differ() -> None:
    backoff = Backoff(first=1, longest=30, random=random.Random(1))
    for failures in range(1, 2000):
        whole = min(30.0, 2.0 ** min(failures - 1, 10))
        assert whole / 2 <= backoff.delay(failures) <= whole
    assert backoff.delay(0) == 0
    assert backoff.delay(9) != backoff.delay(9)

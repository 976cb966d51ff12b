"""Pods that report the progress of their jobs to the operator, for benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiohttp

from tests.operator.running_jobs import report_of

REPORT_SECONDS = 5.0


@contextlib.asynccontextmanager
async def reporting(
    pods: Iterable[tuple[dict[str, Any], str]], url: str, trust: ssl.SSLContext
) -> AsyncIterator[None]:
    """Pods, each with its token, report every few seconds, over TLS, until their jobs end."""
    source = random.Random(0)
    connector = aiohttp.TCPConnector(limit=64)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def report(pod: dict[str, Any], token: str, next_time: float) -> None:
            bearer, step = {"Authorization": f"Bearer {token}"}, 0
            while True:
                await asyncio.sleep(max(0.0, next_time - time.monotonic()))
                next_time += REPORT_SECONDS
                step += 4
                body = report_of(pod, step)
                async with session.post(url, json=body, headers=bearer, ssl=trust) as answer:
                    if answer.status == 409:
                        return
                    await answer.read()

        now = time.monotonic()
        tasks = [
            asyncio.create_task(report(pod, token, now + source.random() * REPORT_SECONDS))
            for pod, token in pods
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

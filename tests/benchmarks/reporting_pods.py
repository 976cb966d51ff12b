"""Pods that report the progress of their jobs to the operator, for benchmarks.

They are a process of their own: what reporting costs is neither the operator's nor the API
server's, and would make both seem slow where it shares a process with one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tests.operator.running_jobs import report_of

ROOT = Path(__file__).parents[2]
REPORT_SECONDS = 5.0


@contextlib.asynccontextmanager
async def reporting(
    pods: Iterable[tuple[dict[str, Any], str]], url: str, authorities: str
) -> AsyncIterator[None]:
    """Pods, each with its token, report every few seconds, over TLS, until their jobs end.

    Args:
        pods: documents and tokens.
        url: where reports go.
        authorities: the certificates, PEM, by which the operator is believed.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.reporting_pods"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    told = {"pods": list(pods), "url": url, "authorities": authorities}
    process.stdin.write(json.dumps(told).encode())
    process.stdin.write_eof()
    try:
        yield
        if process.returncode is not None:
            raise SystemExit(f"the process that reports ended with {process.returncode}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def report_all(pods: Sequence[tuple[dict[str, Any], str]], url: str, trust: Any) -> None:
    """Report until every pod's job has ended."""
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
        async with asyncio.TaskGroup() as group:
            for pod, token in pods:
                group.create_task(report(pod, token, now + source.random() * REPORT_SECONDS))


if __name__ == "__main__":
    told = json.load(sys.stdin)
    made = ssl.create_default_context(cadata=told["authorities"])
    asyncio.run(report_all(told["pods"], told["url"], made))

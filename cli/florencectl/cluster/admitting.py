"""Writes of FlorenceJobs, which the operator's webhook has to see: patience while it starts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from florencectl.cluster.errors import lacks_webhook, server_words
from florencectl.output import note

T = TypeVar("T")

PATIENCE_SECONDS = 20.0
_PAUSES = (0.5, 1.0, 2.0)


async def once_admitted(
    write: Callable[[], Awaitable[T]],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """The answer of a write, tried again for some seconds while the webhook does not answer.

    That is no verdict on the job, and passes: a replica of the operator is being started or
    replaced. The API server has stored nothing, so that any write may be repeated.

    Raises:
        ApiError: it was refused for another reason, or patience has run out.
    """
    from florence_operator.kube.client import ApiError

    until, failures = clock() + PATIENCE_SECONDS, 0
    while True:
        try:
            return await write()
        except ApiError as error:
            pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
            if not lacks_webhook(error) or clock() + pause > until:
                raise
            if not failures:
                note(
                    "the operator's webhook does not answer, which passes when it is just being "
                    f"started: trying again for {PATIENCE_SECONDS:g} s ({server_words(error)})"
                )
        failures += 1
        await sleep(pause)

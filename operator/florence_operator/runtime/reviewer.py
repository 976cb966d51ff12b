"""Admission reviews in a thread of their own: whatever one costs, the event loop goes on."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from florence_operator.runtime.review import Validate, answer_review
from florence_operator.runtime.webserver import Route

PATIENCE_SECONDS = 5.0
"""How long the API server waits for an answer (``timeoutSeconds`` of the webhook)."""
MOST_REVIEWS = 32
"""Reviews that may wait at once: each holds a body of some megabytes."""

log = logging.getLogger(__name__)


class BusyError(Exception):
    """The review was not looked at; the same one may be, a moment later."""


class Reviewer:
    """Answers AdmissionReviews, one after the other.

    One thread only: more of them would take the interpreter from the event loop, which keeps the
    leader's lease.
    """

    def __init__(self, validate: Validate, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._validate = validate
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="review")
        self._waiting = 0

    def route(self, path: str) -> Route:
        """The route: 400 for a body that is no review, 503 for one too many, 500 for a bug."""

        async def review(request: web.Request) -> web.Response:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    body = await request.read()
            except TimeoutError:
                return web.Response(status=408, text="the review was not sent in time")
            # Only what waits for the thread is counted: nobody who dawdles keeps others out.
            if self._waiting >= MOST_REVIEWS:
                return _busy("too many reviews at once")
            self._waiting += 1
            try:
                return await self._answered(body, self._clock())
            finally:
                self._waiting -= 1

        return ("POST", path, review)

    async def _answered(self, body: bytes, came: float) -> web.Response:
        loop = asyncio.get_running_loop()
        try:
            answer = await loop.run_in_executor(self._thread, self._review, body, came)
        except ValueError as error:
            return web.Response(status=400, text=str(error))
        except BusyError as error:
            return _busy(str(error))
        except Exception:
            log.exception("an admission review failed")
            return web.Response(status=500, text="the review failed; the operator's log has more")
        return web.Response(body=answer, content_type="application/json")

    def _review(self, body: bytes, came: float) -> bytes:
        if self._clock() - came > PATIENCE_SECONDS:
            # Nobody waits for the answer any more, and those behind it still do.
            raise BusyError("the review waited too long for its turn")
        return json.dumps(answer_review(body, self._validate)).encode()


def _busy(why: str) -> web.Response:
    # The API server asks again by itself when it is told when.
    return web.Response(status=503, text=f"{why}: try again", headers={"Retry-After": "1"})

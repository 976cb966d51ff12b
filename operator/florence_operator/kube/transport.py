"""One HTTP session to the API server: credentials, timeouts, retries and errors."""

from __future__ import annotations

import asyncio
import copy
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp

from florence_operator.kube.errors import ApiError, error_of
from florence_operator.kube.kubeconfig import Access
from florence_operator.kube.rate_limits import Backoff, TokenBucket

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"

# Over this a server's Retry-After is not believed.
LONGEST_WAIT = 30.0

Document = dict[str, Any]
Query = Mapping[str, str | int | None]


class Transport:
    """Sends requests and turns every failure into an :class:`ApiError`."""

    def __init__(
        self,
        access: Access,
        *,
        limiter: TokenBucket | None = None,
        user_agent: str = "florence",
        on_request: Callable[[str, str], None] | None = None,
        timeout: float = 30.0,
        tries: int = 4,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """Requests sent so far by HTTP method; a watch is a GET."""
        self.timeout = timeout
        self.tries = tries
        self._access = access
        self._limiter = limiter
        self._guard: Callable[[], None] | None = None
        self._on_request = on_request
        self._backoff = backoff or Backoff(first=0.25, longest=8.0)
        self._sleep = sleep
        self._tls = access.tls()
        self._headers = {"User-Agent": user_agent, "Accept": JSON}
        self._session: aiohttp.ClientSession | None = None

    @property
    def namespace(self) -> str:
        """The namespace of the context or of the service account."""
        return self._access.namespace

    @property
    def server(self) -> str:
        """Where the API server is."""
        return str(self._access.configuration.host)

    async def __aenter__(self) -> Self:
        # A connection for every worker and watch: a limit here would be a second, hidden limiter.
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls or True)
        self._session = aiohttp.ClientSession(connector=connector, trust_env=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def unlimited(self) -> Self:
        """The same session without the limiter: for the few requests that must not queue."""
        other = copy.copy(self)
        other._limiter = None
        return other

    def guarded(self, guard: Callable[[], None]) -> Self:
        """The same session, where ``guard`` is called before each write and may raise to stop it.

        With :meth:`Leader.check` a replica that was paused writes nothing once it goes on.
        """
        other = copy.copy(self)
        other._guard = guard
        return other

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        content_type: str = JSON,
    ) -> Document:
        """One request and its answer; tried again where that cannot do harm.

        A 429 is tried again whatever the method: the server has done nothing. Lost connections and
        5xx are tried again only when doing it twice is the same as doing it once.

        Raises:
            ApiError: the server refused, or it could not be reached.
        """
        repeatable = method != "POST" and content_type != JSON_PATCH
        failures = 0
        while True:
            try:
                async with self.open(method, path, query, body, content_type) as response:
                    return decode(await response.read(), f"{method} {path}")
            except ApiError as error:
                failures += 1
                if failures >= self.tries or not _again(error, repeatable):
                    raise
                asked = min(error.retry_after or 0.0, LONGEST_WAIT)
            await self._sleep(max(asked, self._backoff.delay(failures)))

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        content_type: str = JSON,
        wait: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer whose body is still to be read; refused credentials are renewed once."""
        where = f"{method} {path}"
        wait = wait or aiohttp.ClientTimeout(total=self.timeout, sock_connect=10)
        try:
            response = await self._send(method, path, query, body, content_type, wait)
            if response.status == 401 and await self._access.refresh(self._tls):
                response.release()
                response = await self._send(method, path, query, body, content_type, wait)
            async with response:
                if response.status >= 400:
                    raise await _refusal(response, where)
                yield response
        except (aiohttp.ClientError, OSError) as error:
            problem = str(error) or type(error).__name__
            raise ApiError(0, "Unreachable", f"{where} at {self.server}: {problem}") from error

    async def _send(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Any,
        content_type: str,
        wait: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("the client is used outside of 'async with'")
        if self._limiter is not None:
            await self._limiter.acquire()
        if self._guard is not None and method != "GET":
            self._guard()
        headers = dict(self._headers)
        authorization = await self._access.authorization()
        if authorization:
            headers["Authorization"] = authorization
        if body is not None:
            headers["Content-Type"] = content_type
        self.counts[method] += 1
        code = "<error>"
        try:
            response = await self._session.request(
                method,
                self.server + path,
                params={k: str(v) for k, v in (query or {}).items() if v not in (None, "")},
                data=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=wait,
                proxy=self._access.configuration.proxy,
                server_hostname=self._access.configuration.tls_server_name,
                allow_redirects=False,
            )
            code = str(response.status)
            return response
        finally:
            if self._on_request is not None:
                self._on_request(method, code)


def _again(error: ApiError, repeatable: bool) -> bool:
    if error.status == 429:
        return True
    if not repeatable:
        return False
    told_to = error.status >= 500 and error.retry_after is not None
    return told_to or error.status in (0, 502, 503, 504)


async def _refusal(response: aiohttp.ClientResponse, where: str) -> ApiError:
    text = await response.read()
    try:
        status = json.loads(text)
    except ValueError:
        status = None
    if not isinstance(status, dict) or status.get("kind") != "Status":
        status = {"message": text[:500].decode("utf-8", errors="replace").strip()}
    asked = response.headers.get("Retry-After", "")
    return error_of(
        status,
        where,
        code=response.status,
        retry_after=float(asked) if asked.isdecimal() else None,
    )


def decode(text: bytes, where: str) -> Document:
    """The JSON object of an answer; ApiError when it is none."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ApiError(0, "NotJSON", f"{where}: the answer is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ApiError(0, "NotJSON", f"{where}: the answer is not a JSON object")
    return document


async def lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The lines of a body, however long: aiohttp's own reader gives up on long ones."""
    rest = bytearray()
    async for chunk in response.content.iter_any():
        rest += chunk
        if b"\n" not in chunk:
            continue
        *whole, tail = bytes(rest).split(b"\n")
        rest = bytearray(tail)
        for line in whole:
            if line:
                yield line
    if rest:
        yield bytes(rest)

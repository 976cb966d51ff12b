"""HTTP servers of the operator: with a certificate that can change, or plain inside the pod."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Self

from aiohttp import web

from florence_operator.runtime.metrics import Metrics

BODY_LIMIT = 3 * 2**20

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Route = tuple[str, str, Handler]
Check = Callable[[], Sequence[str]]


class ServerTls:
    """A certificate that servers present; a new one holds for all connections that follow."""

    def __init__(self) -> None:
        self.context = self._empty()
        self.loaded = False

    def load(self, certificate: bytes, key: bytes) -> None:
        """Presents another certificate from now on.

        Raises:
            ssl.SSLError: the two do not belong together; the one before stays in use.
        """
        with tempfile.TemporaryDirectory() as folder:
            cert_file, key_file = Path(folder, "tls.crt"), Path(folder, "tls.key")
            cert_file.write_bytes(certificate)
            key_file.touch(mode=0o600)
            key_file.write_bytes(key)
            # A context that failed to load has lost the key that it had: try on another first.
            self._empty().load_cert_chain(cert_file, key_file)
            self.context.load_cert_chain(cert_file, key_file)
        self.loaded = True

    @staticmethod
    def _empty() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


class WebServer:
    """One port with routes, served while its context is entered."""

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        port: int,
        host: str | None = None,
        tls: ServerTls | None = None,
        body_limit: int = BODY_LIMIT,
    ) -> None:
        self.port = port
        """The TCP port; with 0 the one that was found, once it serves."""
        self._app = web.Application(client_max_size=body_limit)
        self.add(routes)
        self._runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=5.0)
        self._host = host
        self._tls = tls

    def add(self, routes: Sequence[Route]) -> None:
        """More routes; before it serves."""
        for method, path, handler in routes:
            self._app.router.add_route(method, path, handler)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        context = self._tls.context if self._tls is not None else None
        await web.TCPSite(self._runner, self._host, self.port, ssl_context=context).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


def health_routes(health: Check, ready: Check) -> list[Route]:
    """/healthz and /readyz, which answer 503 and what is wrong."""

    def probe(check: Check) -> Handler:
        async def answer(_: web.Request) -> web.Response:
            problems = check()
            text = "".join(f"{problem}\n" for problem in problems) or "ok\n"
            return web.Response(status=503 if problems else 200, text=text)

        return answer

    return [("GET", "/healthz", probe(health)), ("GET", "/readyz", probe(ready))]


def metrics_route(metrics: Metrics) -> Route:
    """/metrics in Prometheus' text form."""

    async def exposition(_: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=metrics.exposition(), headers=headers)

    return ("GET", "/metrics", exposition)

"""Take the progress that stages of this machine post, as the operator does on a cluster."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from florence.config.progress import StageProgress
from florence_operator.api.stage import ProgressTarget

log = logging.getLogger(__name__)

_LARGEST_REPORT = 64 * 1024
_SECONDS_BETWEEN_REPORTS = 0.5

Receive = Callable[[str, int, StageProgress], None]
"""Told stage, attempt and progress of every report, from another thread."""


class ProgressServer:
    """Listens on the loopback interface and hands every valid report to a callback.

    Args:
        token: what a reporter must present; nobody else on the machine may report.
        receive: called from the server's threads with (stage, attempt, progress).
    """

    def __init__(self, token: str, receive: Receive) -> None:
        handler = _handler(token, receive)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where reports are posted."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/progress"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def listening(folder: Path, receive: Receive) -> Iterator[ProgressTarget]:
    """Take reports while a block runs; the token that allows them lies in ``folder`` meanwhile."""
    token = secrets.token_urlsafe()
    token_file = folder / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(token)
    server = ProgressServer(token, receive)
    try:
        yield ProgressTarget(
            url=server.url,
            token_file=str(token_file),
            interval_seconds=_SECONDS_BETWEEN_REPORTS,
        )
    finally:
        server.close()
        token_file.unlink(missing_ok=True)


def _handler(token: str, receive: Receive) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            given = self.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                self._answer(401)
                return
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 < length <= _LARGEST_REPORT:
                self._answer(413)
                return
            try:
                report: dict[str, Any] = json.loads(self.rfile.read(length))
                progress = StageProgress.model_validate(report["progress"])
                stage, attempt = str(report["stage"]), int(report["attempt"])
            except (ValueError, KeyError, TypeError, ValidationError):
                self._answer(400)
                return
            receive(stage, attempt, progress)
            self._answer(204)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            log.debug(format, *args)

    return Handler

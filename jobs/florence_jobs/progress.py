"""Post a stage's progress to whoever started it, from a thread that training never waits for."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from florence.config.progress import StageProgress
from florence_operator.api.stage import ProgressTarget, StagePlan

log = logging.getLogger(__name__)


Post = Callable[[str, bytes, str | None, str | None], None]

_MISSED = 3
"""So many intervals without a note of the stage's process mean that it does not report."""
_SILENCE_SECONDS = 5.0
"""How long a receiver may say nothing."""
_ANSWER_SECONDS = 15.0
"""How long a whole delivery may take, however the receiver dribbles."""


class ProgressReporter:
    """Sends the newest progress at every interval, also when nothing changed: a heartbeat.

    Whoever receives it can tell a stage that gets no further from one that is not heard. Only the
    newest state matters, so a report that could not be delivered is replaced, never queued, and no
    answer, however odd, ends the reports.

    Args:
        target: where reports go.
        plan: whose they are.
        post: sends (URL, body, bearer token, file with the server's certificates).
        record: a file that also gets the newest progress, whether or not it can be delivered.
    """

    def __init__(
        self,
        target: ProgressTarget,
        plan: StagePlan,
        *,
        post: Post | None = None,
        record: Path | None = None,
    ) -> None:
        self._target = target
        self._delivery = _Delivery(target, plan, post)
        self._record = record
        self._newest: StageProgress | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def report(self, progress: StageProgress) -> None:
        """Remember the progress for the next report; returns at once."""
        with self._changed:
            urgent = self._newest is None or progress.phase != self._newest.phase
            self._newest = progress
            if urgent:
                self._changed.notify()

    def close(self) -> None:
        """Send what is left and stop; waits for one interval at most."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=self._target.interval_seconds)

    def _run(self) -> None:
        closed = False
        while not closed:
            with self._changed:
                if not self._closed:
                    self._changed.wait(timeout=self._target.interval_seconds)
                newest, closed = self._newest, self._closed
            if newest is not None:
                if self._record:
                    _write(self._record, json.dumps(newest.wire()))
                self._delivery.send(newest)


class Heartbeat:
    """Reports from a pod's first process, while the stage's own process does not.

    Before that has come so far, and when nothing in it moves any more: it is stopped, or a call
    that never returns holds the interpreter. Whoever receives the reports must be able to tell
    that from a network that is away.

    Args:
        target: where reports go.
        plan: whose they are.
        record: the file in which the stage's process notes its progress at every interval.
        post: as of :class:`ProgressReporter`.
        now: Unix seconds, as files have them.
    """

    def __init__(
        self,
        target: ProgressTarget,
        plan: StagePlan,
        record: Path,
        *,
        post: Post | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._delivery = _Delivery(target, plan, post)
        self._interval = target.interval_seconds
        self._record = record
        self._now = now
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and wait for nothing: the pod has better to do than to end a report."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(timeout=self._interval):
            if not self._reports():
                self._delivery.send(self._recorded())

    def _reports(self) -> bool:
        """Whether the stage's process has noted its progress just now, and so reports it."""
        try:
            return self._now() - self._record.stat().st_mtime < _MISSED * self._interval
        except OSError:
            return False

    def _recorded(self) -> StageProgress:
        try:
            return StageProgress.model_validate_json(self._record.read_bytes())
        except (OSError, ValidationError):
            return StageProgress(phase="start")


class _Delivery:
    """Posts progress, and tells once when that begins to fail."""

    def __init__(self, target: ProgressTarget, plan: StagePlan, post: Post | None) -> None:
        self._target = target
        self._who = {
            "namespace": plan.namespace,
            "job": plan.job,
            "uid": plan.uid,
            "stage": plan.stage,
            "attempt": plan.attempt,
        }
        self._post = post or _post
        self._failing = False

    def send(self, progress: StageProgress) -> None:
        """Deliver one report, or do without."""
        body = json.dumps({**self._who, "progress": progress.wire()}).encode()
        try:
            token = None
            if self._target.token_file:
                # Read every time: a projected token is replaced before it expires.
                token = Path(self._target.token_file).read_text(encoding="utf-8").strip()
            self._post(self._target.url, body, token, self._target.ca_file)
        except Exception as error:  # whatever an answer brings about, later reports must go out
            if not self._failing:
                log.warning(
                    "Progress cannot be reported to %s: %s: %s",
                    *(self._target.url, type(error).__name__, str(error)[:200]),
                )
            self._failing = True
        else:
            self._failing = False


def _post(url: str, body: bytes, token: str | None, ca_file: str | None) -> None:
    """Deliver one report straight to its receiver; ``HTTPException`` unless the answer is 2xx.

    Neither proxies nor redirects are followed: the receiver is in this cluster or on this machine,
    and nobody else may see the token.
    """
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    parts = urlsplit(url)
    connection = _connection(parts.scheme, parts.hostname or "", parts.port, ca_file)
    limit = threading.Timer(_ANSWER_SECONDS, _cut, [connection])
    limit.daemon = True
    limit.start()
    try:
        target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        connection.request("POST", target, body=body, headers=headers)
        answer = connection.getresponse()
        if not 200 <= answer.status < 300:
            raise HTTPException(f"HTTP {answer.status} {answer.reason}")
    finally:
        limit.cancel()
        connection.close()


def _connection(scheme: str, host: str, port: int | None, ca_file: str | None) -> HTTPConnection:
    if scheme == "http":
        return HTTPConnection(host, port, timeout=_SILENCE_SECONDS)
    if scheme != "https":
        raise ValueError("reports go to http:// or https:// only")
    # Read every time: the certificates are replaced before they expire.
    tls = ssl.create_default_context(cafile=ca_file)
    return HTTPSConnection(host, port, timeout=_SILENCE_SECONDS, context=tls)


def _cut(connection: HTTPConnection) -> None:
    """End a delivery that takes too long, whatever it is waiting for."""
    if connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def _write(path: Path, text: str) -> None:
    """Replace a file at once, so that its reader never sees half of it."""
    try:
        fresh = path.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)
    except OSError as error:
        log.warning("Progress cannot be recorded in %s: %s", path, error)

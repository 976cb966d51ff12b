"""Post a stage's progress to whoever started it, from a thread that training never waits for."""

from __future__ import annotations

import json
import logging
import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel

from florence.stages.context import StageProgress
from florence_operator.api.stage import ProgressTarget, StagePlan

log = logging.getLogger(__name__)


class ProgressReporter:
    """Sends the newest progress at intervals; a report that cannot be delivered is dropped.

    Only the newest state matters, so a report that was not sent in time is replaced, never queued.

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
        post: Callable[[str, bytes, str | None, str | None], None] | None = None,
        record: Path | None = None,
    ) -> None:
        self._target = target
        self._who = {
            "namespace": plan.namespace,
            "job": plan.job,
            "uid": plan.uid,
            "stage": plan.stage,
            "attempt": plan.attempt,
        }
        self._post = post or _post
        self._record = record
        self._newest: StageProgress | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._failing = False
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
        sent: StageProgress | None = None
        while True:
            with self._changed:
                if not self._closed:
                    self._changed.wait(timeout=self._target.interval_seconds)
                newest, closed = self._newest, self._closed
            if newest is not None and newest is not sent and self._send(newest):
                sent = newest
            if closed:
                return

    def _send(self, progress: StageProgress) -> bool:
        if self._record:
            _write(self._record, json.dumps(wire(progress)))
        body = json.dumps({**self._who, "progress": wire(progress)}).encode()
        try:
            token = None
            if self._target.token_file:
                # Read every time: a projected token is replaced before it expires.
                token = Path(self._target.token_file).read_text(encoding="utf-8").strip()
            self._post(self._target.url, body, token, self._target.ca_file)
        except (OSError, urllib.error.URLError) as error:
            if not self._failing:
                log.warning("Progress cannot be reported to %s: %s", self._target.url, error)
            self._failing = True
            return False
        self._failing = False
        return True


def wire(progress: StageProgress) -> dict[str, Any]:
    """Progress as the JSON that the API's ``Progress`` reads."""
    return {to_camel(k): v for k, v in asdict(progress).items() if v is not None}


def _post(url: str, body: bytes, token: str | None, ca_file: str | None) -> None:
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    # Read every time: the certificates are replaced before they expire.
    tls = ssl.create_default_context(cafile=ca_file) if url.startswith("https:") else None
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=5, context=tls):
        pass


def _write(path: Path, text: str) -> None:
    """Replace a file at once, so that its reader never sees half of it."""
    try:
        fresh = path.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)
    except OSError as error:
        log.warning("Progress cannot be recorded in %s: %s", path, error)

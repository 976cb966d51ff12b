"""What is to be tracked, as data that can wait in memory or in a file for a server to come back."""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing to record. Recording it twice must be the same as recording it once.

    ``data`` is JSON. ``files`` are contents by relative name, shared and never copied in memory.
    """

    kind: str
    data: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)


class EventQueue:
    """Events that wait for delivery. Bounded: a full queue drops its oldest metrics, nothing else.

    Everything but metrics is rare (settings, results, checkpoints) and small in number.
    """

    def __init__(self, capacity: int) -> None:
        self._lock = threading.Lock()
        self._metrics: deque[Event] = deque(maxlen=capacity)
        self._others: list[Event] = []
        self._dropped = 0

    def put(self, event: Event) -> None:
        """Add an event; returns at once, whatever the receiver does."""
        with self._lock:
            if event.kind != "metrics":
                self._others.append(event)
                return
            if len(self._metrics) == self._metrics.maxlen:
                self._dropped += 1
            self._metrics.append(event)

    def take(self) -> list[Event]:
        """Remove and return everything that waits, settings and results before metrics."""
        with self._lock:
            events = [*self._others, *self._metrics]
            self._others.clear()
            self._metrics.clear()
        return events

    def take_dropped(self) -> int:
        """How many metric events were dropped since the last call."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        return dropped


class Spill:
    """A JSON-lines file of events that could not be delivered; it outlives the process.

    Contents of files lie beside it under their digest, each once. Thread-safe.
    """

    def __init__(self, path: Path, *, limit_bytes: int = 256 << 20) -> None:
        self.path = path
        self._limit = limit_bytes
        self._blobs = path.with_suffix(".files")
        self._lock = threading.Lock()

    def append(self, events: Iterable[Event]) -> int:
        """Add events at the end; the number of metrics that a full file refused."""
        refused = 0
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="ascii") as file:
                # A process killed while it wrote leaves half a line: end it, it spoils itself only.
                if file.tell() and not _ends_with_newline(self.path):
                    file.write("\n")
                for event in events:
                    if event.kind == "metrics" and file.tell() > self._limit:
                        refused += 1
                        continue
                    file.write(json.dumps(self._record(event)) + "\n")
        return refused

    def read(self) -> list[Event]:
        """All events in their order; a line that was not written to its end is left out."""
        with self._lock:
            if not self.path.exists():
                return []
            lines = self.path.read_text(encoding="ascii", errors="replace").split("\n")
            return [event for line in lines if (event := self._event(line)) is not None]

    def replace(self, events: Sequence[Event]) -> None:
        """Keep only these events, which were read before; with none, remove the file."""
        with self._lock:
            if events:
                temporary = self.path.with_suffix(".new")
                lines = (json.dumps(self._record(e)) + "\n" for e in events)
                temporary.write_text("".join(lines), encoding="ascii")
                temporary.replace(self.path)
                return
            self.path.unlink(missing_ok=True)
            if self._blobs.is_dir():
                for blob in self._blobs.iterdir():
                    blob.unlink()
                self._blobs.rmdir()

    def _record(self, event: Event) -> dict[str, Any]:
        digests = {}
        for name, content in event.files.items():
            digests[name] = hashlib.blake2b(content, digest_size=20).hexdigest()
            blob = self._blobs / digests[name]
            if not blob.exists():
                self._blobs.mkdir(parents=True, exist_ok=True)
                temporary = blob.with_suffix(".new")
                temporary.write_bytes(content)
                temporary.replace(blob)
        return {"kind": event.kind, "data": dict(event.data), "files": digests}

    def _event(self, line: str) -> Event | None:
        try:
            record = json.loads(line)
            files = {n: (self._blobs / d).read_bytes() for n, d in record["files"].items()}
            return Event(record["kind"], record["data"], files)
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            return None


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and texts; lists as JSON; without None and empty groups."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{key}.")
        elif isinstance(value, str):
            flat[metric_key(key)] = value
        elif value is not None:
            flat[metric_key(key)] = json.dumps(value, default=str)
    return flat


def metric_key(name: str) -> str:
    """The name as MLflow takes it: ``R@1`` becomes ``R_at_1``; at most 250 characters."""
    name = name.replace("@", "_at_")
    name = re.sub(r"[^\w./: -]", "_", name, flags=re.ASCII)
    parts = name[:250].split("/")
    name = "/".join(part for part in parts if part not in ("", ".", ".."))
    return name.lstrip("./") or "unnamed"


def split_finite(values: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """The finite values under names MLflow takes, and the names of those that are not finite.

    MLflow's SQL store turns an infinity into the largest float, which ruins every plot.
    """
    finite: dict[str, float] = {}
    broken: list[str] = []
    for name, value in values.items():
        number = float(value)
        if math.isfinite(number):
            finite[metric_key(name)] = number
        else:
            broken.append(metric_key(name))
    return finite, broken

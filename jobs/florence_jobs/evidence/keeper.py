"""When the ranks of a worker are asked what they do, and where the answers are kept.

Ranks that are asked to stop do so after a checkpoint. Those that still run after a part of the
grace period may hang, so they are asked then, in a thread, while they may still stop: nothing waits
for it. What was kept of ranks that did stop well is removed again.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from florence.storage import Storage
from florence_jobs.evidence.devices import gpu_errors
from florence_jobs.evidence.gathering import Clock, gather_dumps, gather_stacks
from florence_jobs.evidence.rank import FOLDER, rank_files
from florence_jobs.evidence.report import DUMP_NAME, NAME, Evidence
from florence_jobs.log_tail import last_lines
from florence_operator.api.ranks import RankGroup

log = logging.getLogger("florence")

AFTER = "FLORENCE_EVIDENCE_AFTER_SECONDS"
"""Environment variable: how long after the request to stop the ranks are asked for their stacks."""
LONGEST = 30.0
_PART_OF_GRACE = 0.25
_PART_OF_REST = 0.8
_LONGEST_CLOSE = 3.0
_LOG_LINES = 100


def patience(grace: float, environment: Mapping[str, str] = os.environ) -> float:
    """Seconds that ranks have to stop before they are asked what they do."""
    with suppress(ValueError):
        given = float(environment.get(AFTER, ""))
        if given >= 0:
            return min(given, grace)
    return _PART_OF_GRACE * grace


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """Whose ranks are asked, and where what they answer goes."""

    who: str
    index: int
    folder: Path
    """Where the ranks write their stacks: on this machine, for this attempt only."""
    storage: Callable[[], Storage]
    """Opens what holds the logs."""
    prefix: str = ""
    """Of the keys of this attempt's logs there."""
    tail: Callable[[], bytes] = lambda: b""
    """The end of the worker's log."""

    def key(self, name: str, rank: int = 0) -> str:
        """The key of a file of the worker."""
        return f"{self.prefix}{name.format(index=self.index, rank=rank)}"


class EvidenceKeeper:
    """Looks whether the ranks stop as they were asked to, and keeps what they do if not.

    No method raises, and none waits for longer than a moment.

    Args:
        worker: whose ranks they are.
        patience: seconds after the request to stop that they may take.
        longest: seconds that all of it may take.
        clock: of waits.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        patience: float,
        longest: float = LONGEST,
        clock: Clock = Clock(),  # noqa: B008 - frozen
    ) -> None:
        self._worker = worker
        self._patience = patience
        self._longest = longest
        self._clock = clock
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._kept: list[str] = []
        self._groups: tuple[RankGroup, ...] = ()
        with suppress(OSError):
            shutil.rmtree(worker.folder, ignore_errors=True)
            worker.folder.mkdir(parents=True)

    @classmethod
    def within(
        cls, grace: float, worker: Worker, environment: Mapping[str, str] = os.environ
    ) -> EvidenceKeeper:
        """A keeper that is done before ranks are killed that have ``grace`` seconds to stop."""
        begin = patience(grace, environment)
        return cls(worker, patience=begin, longest=min(LONGEST, _PART_OF_REST * (grace - begin)))

    @property
    def environment(self) -> dict[str, str]:
        """What the ranks have to be told."""
        return {FOLDER: str(self._worker.folder)}

    def look(self, launcher: int, asked: float | None) -> None:
        """Begin to ask the ranks once they have been asked to stop for long enough.

        Args:
            launcher: number of the process whose children they are.
            asked: when they were asked, by the clock; None if they were not.
        """
        if self._thread is None and asked is not None:
            waited = self._clock.now() - asked
            if waited >= self._patience:
                self._thread = threading.Thread(
                    target=self._gather, args=(launcher, waited), name="evidence", daemon=True
                )
                self._thread.start()

    def close(self) -> tuple[RankGroup, ...]:
        """Where the ranks were if they had to be killed, once none of them is left."""
        self._over.set()
        if self._thread is None:
            shutil.rmtree(self._worker.folder, ignore_errors=True)
            return ()
        self._thread.join(timeout=_LONGEST_CLOSE)
        had_to_be_killed = bool(rank_files(self._worker.folder))
        if not had_to_be_killed:
            self._remove()
        if not self._thread.is_alive():
            shutil.rmtree(self._worker.folder, ignore_errors=True)
        return self._groups if had_to_be_killed else ()

    def _gather(self, launcher: int, waited: float) -> None:
        try:
            self._keep(launcher, waited)
        except Exception as error:  # evidence must never be what ends an attempt
            log.warning("What the ranks do cannot be kept: %s: %s", type(error).__name__, error)

    def _keep(self, launcher: int, waited: float) -> None:
        worker, until = self._worker, self._clock.now() + self._longest

        def over() -> bool:
            return self._over.is_set() or self._clock.now() >= until

        ranks = gather_stacks(worker.folder, launcher, over, self._clock)
        if not ranks or not rank_files(worker.folder):
            return
        evidence = Evidence(
            who=worker.who,
            taken=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            waited=waited,
            ranks=ranks,
            gpu_errors=gpu_errors(),
            log_lines=last_lines(worker.tail(), _LOG_LINES),
        )
        self._groups = evidence.groups
        storage = worker.storage()
        self._store(storage, worker.key(NAME), evidence.text().encode())
        log.warning("The ranks have not stopped after %.0f s: their stacks are kept", waited)
        found = gather_dumps(worker.folder, [each.rank for each in ranks], over, self._clock)
        for rank, path in found.items():
            if over():
                log.warning("No time was left for NCCL's dump of rank %d", rank)
            else:
                self._store(storage, worker.key(DUMP_NAME, rank), path)

    def _store(self, storage: Storage, key: str, data: bytes | Path) -> None:
        self._kept.append(key)
        storage.write(key, data)

    def _remove(self) -> None:
        """Forget what was kept of ranks that did stop: they only took longer."""
        try:
            storage = self._worker.storage()
            for key in self._kept:
                storage.delete(key)
        except Exception as error:
            log.warning("%s cannot be removed: %s", ", ".join(self._kept), error)

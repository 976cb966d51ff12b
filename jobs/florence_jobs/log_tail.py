"""The end of a stage's log: kept in memory, and read for the line that says why it failed."""

from __future__ import annotations

import re
import signal

LOST_PEERS = "Lost the other processes or the network"
"""How the line begins that a process logs when it failed only because another one did."""

_WATCHDOG = re.compile(rb"Watchdog caught collective operation timeout[^\n]{0,200}")
"""What NCCL logs before it aborts a process that waited for the others for too long."""
_ERROR_LINE = re.compile(rb"\[rank (-?\d+)\] ERROR (.+)")


class LogTail:
    """The last bytes of a log, whole lines only."""

    def __init__(self, limit: int = 256 * 1024) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._dropped = False

    def add(self, data: bytes) -> None:
        """Append to the log."""
        self._kept += data
        if len(self._kept) > 2 * self._limit:  # cut seldom: moving bytes costs
            del self._kept[: -self._limit]
            self._dropped = True

    def read(self) -> bytes:
        """What is kept of it, from the beginning of a line."""
        data = bytes(self._kept[-self._limit :])
        if self._dropped or len(self._kept) > self._limit:
            data = data.partition(b"\n")[2]
        return data


def failure_line(tail: bytes, code: int = 1) -> str:
    """The line that says why a stage with this exit code failed.

    It is the last error of the rank that logged an error first. Ranks that say that they lost their
    peers do not count while another one says more. Without an error, NCCL's watchdog says why, or
    the signal that ended it, or else the last line.
    """
    errors = _ERROR_LINE.findall(tail)
    if not errors:
        return _aborted_by_nccl(tail, code) or _ended_by(code) or _last_line(tail)
    causes = [rank for rank, text in errors if text.startswith(LOST_PEERS.encode())]
    roots = [rank for rank, _ in errors if rank not in causes]
    first_rank = (roots or [errors[0][0]])[0]
    line: bytes = [text for rank, text in errors if rank == first_rank][-1]
    return line.decode(errors="replace").strip()


def killed(who: str, number: int) -> str:
    """What to say of a process that a signal ended, which could say nothing itself."""
    name = signal.Signals(number).name
    if number != signal.SIGKILL:
        return f"{who} was ended by {name}"
    return (
        f"{who} was killed ({name}): by somebody, or by the system because memory ran out "
        "(the kernel's log tells)"
    )


def _aborted_by_nccl(tail: bytes, code: int) -> str | None:
    """NCCL's watchdog ends a process that waits for a lost one by SIGABRT, without an exception."""
    found = _WATCHDOG.search(tail) if code == 128 + signal.SIGABRT else None
    return f"{LOST_PEERS} ({found[0].decode(errors='replace')}); try again" if found else None


def _ended_by(code: int) -> str | None:
    """What an exit code of 128 and more says; the launcher's own 143 is a request to stop."""
    try:
        name = signal.Signals(code - 128).name if code > 128 else None
    except ValueError:
        return None
    return f"ended by {name}" if name else None


def _last_line(tail: bytes) -> str:
    lines = last_lines(tail, 1)
    return lines[0].strip() if lines else "ended without a message"


def last_lines(tail: bytes, count: int) -> tuple[str, ...]:
    """The last lines that say something."""
    lines = [line for line in tail.decode(errors="replace").splitlines() if line.strip()]
    return tuple(lines[-count:])

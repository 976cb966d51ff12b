"""Ask every rank of this pod or machine for its stacks, and wait for a moment for the answers."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence_jobs.evidence.devices import dumps, request_dumps
from florence_jobs.evidence.rank import SIGNAL, RankFile, rank_files
from florence_jobs.evidence.report import RankStacks
from florence_jobs.evidence.stacks import is_whole

LARGEST_DUMP = 64 << 20
_LONGEST_ANSWER = 5.0
_LONGEST_DUMP = 8.0
_SECONDS_BETWEEN_LOOKS = 0.1
_LARGEST_STACKS = 1 << 20


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as it passes, and how to let it."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def gather_stacks(
    folder: Path, launcher: int, over: Callable[[], bool], clock: Clock
) -> list[RankStacks]:
    """The stacks of the ranks that are children of a launcher.

    Args:
        folder: where ranks write them.
        launcher: number of the process; whoever has a rank's number but is none of its children
            got it later, and the signal would end it.
        over: whether there is nothing to wait for any more.
        clock: of the wait.
    """
    ranks = _alive(rank_files(folder), launcher)
    begun = {each.rank: _size(each.path) for each in ranks}
    for each in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each.process, SIGNAL)
    until = clock.now() + _LONGEST_ANSWER
    while True:
        answers = {each.rank: _since(each.path, begun[each.rank]) for each in ranks}
        whole = all(is_whole(answers[each.rank], each.main_thread) for each in ranks)
        if whole or over() or clock.now() >= until:
            break
        clock.sleep(_SECONDS_BETWEEN_LOOKS)
    return [
        RankStacks(
            rank=each.rank,
            process=each.process,
            main_thread=each.main_thread,
            text=answers[each.rank],
            state="" if answers[each.rank] else _state(each.process),
        )
        for each in ranks
    ]


def gather_dumps(
    folder: Path, ranks: Sequence[int], over: Callable[[], bool], clock: Clock
) -> dict[int, Path]:
    """NCCL's dumps by rank, once those that were asked for are written."""
    begun = last = _marks(dumps(folder, ranks))
    if request_dumps(folder, ranks):
        until = clock.now() + _LONGEST_DUMP
        while not over() and clock.now() < until:
            clock.sleep(_SECONDS_BETWEEN_LOOKS)
            now = _marks(dumps(folder, ranks))
            if now == last and all(now.get(rank) not in (None, begun.get(rank)) for rank in ranks):
                break
            last = now
    found = dumps(folder, ranks)
    return {rank: path for rank, path in found.items() if _size(path) <= LARGEST_DUMP}


def _alive(files: Sequence[RankFile], launcher: int) -> list[RankFile]:
    import psutil  # of the train extra, as the ranks are

    try:
        below = {child.pid for child in psutil.Process(launcher).children(recursive=True)}
    except psutil.NoSuchProcess:
        return []
    return [each for each in files if each.process in below]


def _state(process: int) -> str:
    """What the system says of a process that does not answer."""
    import psutil

    try:
        return (
            f"process {process} did not answer, it is in state {psutil.Process(process).status()}"
        )
    except psutil.Error:
        return f"process {process} is gone"


def _since(path: Path, start: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(_LARGEST_STACKS).decode(errors="replace")
    except OSError:
        return ""


def _marks(paths: dict[int, Path]) -> dict[int, tuple[int, int]]:
    """What changes of a file while it is written."""
    found = {}
    for rank, path in paths.items():
        with contextlib.suppress(OSError):
            written = path.stat()
            found[rank] = (written.st_size, written.st_mtime_ns)
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

"""The processes of a job's stages on this machine: find them, and see that none is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from florence.errors import (
    ConfigurationError,
    DataError,
    DivergedError,
    StoppedError,
    TransientError,
)
from florence_jobs.evidence.keeper import EvidenceKeeper
from florence_jobs.local.oom_kills import oom_kills
from florence_jobs.local.stop_signals import StopSignals
from florence_jobs.log_tail import killed
from florence_jobs.parent_watch import PARENT
from florence_operator.api.ranks import sentence

if TYPE_CHECKING:
    import psutil

PROGRAM = "florence_jobs.main"
"""What every process of a stage runs, also its launcher and its data loaders."""

_SECONDS_BETWEEN_LOOKS = 0.1
_LONGER_THAN_THE_LAUNCHER = 10.0
"""Seconds: the launcher kills its ranks after their grace, and that takes it a moment."""
_EXPLAINED = (
    0,
    ConfigurationError.exit_code,
    DataError.exit_code,
    DivergedError.exit_code,
    StoppedError.exit_code,
)
"""Exit codes of a stage that no killed process is behind."""
_LONGEST_DEATH = 60.0
"""Seconds that a process may take to be gone once it was killed."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the processes of an attempt ended."""

    code: int
    message: str | None = None
    """What is known beside their log."""
    out_of_memory: bool = False
    """Whether the kernel ended one of them for want of memory."""
    hung: str = ""
    """Where the ranks were that had to be killed when they were asked to stop."""

    @property
    def killed(self) -> bool:
        """Whether a signal ended one of them that none of ours sends."""
        return self.code > 128 and self.code != StoppedError.exit_code


def stage_command(path: Path) -> list[str]:
    """What the launcher is told to run, by which :func:`stage_processes` knows it again."""
    return ["-m", PROGRAM, str(path.resolve())]


def stage_processes(folder: Path) -> list[psutil.Process]:
    """Every live process whose command line names a plan under ``folder``."""
    import psutil  # of the train extra: whoever lists jobs may do without

    inside = f"{folder.resolve()}{os.sep}"
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or ()
        if PROGRAM in words and any(word.startswith(inside) for word in words):
            found.append(process)
    return found


def end_processes(folder: Path, *, grace: float, stop: StopSignals | None = None) -> None:
    """Ask every process of a job's stages to stop after a checkpoint, and wait until all are gone.

    Args:
        folder: the job's.
        grace: seconds after which those that are left are killed.
        stop: kills them as soon as it says so.

    Raises:
        TransientError: some cannot even be killed, as those that wait for a broken disk or GPU.
    """
    left = stage_processes(folder)
    _send(left, signal.SIGTERM)
    deadline = time.monotonic() + grace
    # Those that are dying have no command line any more, but may still hold a GPU's memory.
    while left := [p for p in {*left, *stage_processes(folder)} if _is_alive(p)]:
        if time.monotonic() >= deadline or (stop is not None and stop.at_once):
            _send(left, signal.SIGKILL)
        if time.monotonic() >= deadline + _LONGEST_DEATH:
            numbers = ", ".join(str(process.pid) for process in left)
            raise TransientError(f"processes {numbers} of an earlier attempt cannot be killed")
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def run_processes(
    command: Sequence[str],
    *,
    folder: Path,
    log: Path,
    environment: Mapping[str, str],
    grace: float,
    stop: StopSignals,
    on_stopping: Callable[[], None],
    evidence: EvidenceKeeper,
) -> Ended:
    """Run an attempt's launcher to its end; when this returns, none of its processes is left.

    Args:
        folder: the job's.
        log: gets what they write.
        grace: seconds that the ranks have to checkpoint and stop.
        stop: asks them to; a second interrupt ends them at once.
        on_stopping: called once they have been asked.
        evidence: keeps what they do if they do not stop.
    """
    kills_before = oom_kills()
    # A session of its own: Ctrl-C reaches this process alone, which asks the stage to stop.
    with log.open("ab") as output:
        launcher = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment, **evidence.environment, PARENT: str(os.getpid())},
            start_new_session=True,
        )
    try:
        patience = grace + _LONGER_THAN_THE_LAUNCHER
        ended = _ended(launcher, patience, stop, on_stopping, evidence)
    finally:
        if launcher.poll() is None:
            launcher.kill()
            launcher.wait()
        end_processes(folder, grace=grace, stop=stop)
        hung = sentence(evidence.close())
    ended = replace(ended, hung=hung)
    kills = oom_kills()
    if kills_before is None or kills is None or ended.code in _EXPLAINED:
        return ended
    return replace(ended, out_of_memory=kills > kills_before)


def _ended(
    launcher: subprocess.Popen[bytes],
    patience: float,
    stop: StopSignals,
    on_stopping: Callable[[], None],
    evidence: EvidenceKeeper,
) -> Ended:
    asked, deadline = None, float("inf")
    while launcher.poll() is None:
        if stop.at_once or time.monotonic() >= deadline:
            return Ended(StoppedError.exit_code)
        if stop.requested and asked is None:
            asked = time.monotonic()
            deadline = asked + patience
            launcher.terminate()
            on_stopping()
        evidence.look(launcher.pid, asked)
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(timeout=_SECONDS_BETWEEN_LOOKS)
    code = launcher.returncode
    if code >= 0:
        return Ended(code)
    return Ended(128 - code, killed("the launcher of its ranks", -code))


def _is_alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def stage_environment(processes: int) -> dict[str, str]:
    """The stage's environment: its share of the cores, and the loopback interface for gloo."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    defaults = {
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": loopback,
        "PYTHONUNBUFFERED": "1",
    }
    return {**defaults, **os.environ}

"""A stage that the kernel ends for want of memory ends once, with what would fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from florence.storage import open_storage
from florence_jobs.evidence.keeper import EvidenceKeeper, Worker
from florence_jobs.local import LocalRunner, Records, processes, runner
from florence_jobs.local.oom_kills import oom_kills
from florence_jobs.local.outcome import UsualDelays
from florence_jobs.local.processes import run_processes
from florence_jobs.local.stop_signals import StopSignals
from florence_jobs.recipes.digits import digits
from florence_operator.api import State
from florence_operator.api.failure import Cause


def system(root: Path, groups: str, **counts: int) -> Path:
    """A file system with what a kernel tells; ``counts`` are by file, ``__`` for a slash."""
    files = {"proc/self/cgroup": groups}
    for name, count in counts.items():
        words = "low 0\nhigh 3\noom 7\noom_kill {}\n" if name != "vmstat" else "oom_kill {}\n"
        path = {
            "second": "sys/fs/cgroup/user.slice/memory.events",
            "first": "sys/fs/cgroup/memory/pod/memory.oom_control",
            "inside": "sys/fs/cgroup/memory/memory.oom_control",
            "vmstat": "proc/vmstat",
        }[name]
        files[path] = words.format(count)
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "counts", "found"),
    [
        ("0::/user.slice\n", {"second": 2, "vmstat": 9}, 2),
        ("4:cpu:/x\n3:memory:/pod\n0::/\n", {"first": 1, "vmstat": 9}, 1),
        ("3:memory:/not/mounted/here\n0::/\n", {"vmstat": 9}, 9),
        ("3:memory:/of/the/host\n0::/\n", {"inside": 5, "vmstat": 9}, 5),
        ("", {"vmstat": 9}, 9),
        ("0::/user.slice\n", {}, None),
    ],
)
def test_the_kernels_count_is_that_of_the_nearest_group(
    tmp_path: Path, groups: str, counts: dict[str, int], found: int | None
) -> None:
    assert oom_kills(system(tmp_path, groups, **counts)) == found


def test_another_system_tells_nothing(tmp_path: Path) -> None:
    assert oom_kills(tmp_path) is None


def ended_with(code: str, folder: Path, counts: list[int], monkeypatch: Any) -> processes.Ended:
    """How a process ends that does ``code``, with the kernel's counts before and after."""
    monkeypatch.setattr(processes, "oom_kills", lambda: counts.pop(0))
    worker = Worker(
        who="a process",
        index=0,
        folder=folder / "ranks",
        storage=lambda: open_storage(str(folder)),
        tail=bytes,
    )
    with StopSignals() as stop:
        return run_processes(
            [sys.executable, "-c", code],
            folder=folder,
            log=folder / "log",
            environment={},
            grace=1,
            stop=stop,
            on_stopping=lambda: None,
            evidence=EvidenceKeeper(worker, patience=1.0, longest=1.0),
        )


KILLED = "import os; os.kill(os.getpid(), 9)"


@pytest.mark.parametrize(
    ("code", "counts", "is_memory"),
    [
        (KILLED, [3, 4], True),
        (KILLED, [3, 3], False),
        ("raise SystemExit(75)", [3, 4], True),  # a data loader of it was killed
        ("raise SystemExit(2)", [3, 4], False),
        ("", [3, 4], False),
    ],
)
def test_a_killed_process_ran_out_of_memory_when_the_kernel_ended_one_meanwhile(
    tmp_path: Path, monkeypatch: Any, code: str, counts: list[int], is_memory: bool
) -> None:
    assert ended_with(code, tmp_path, counts, monkeypatch).out_of_memory is is_memory


class Watching:
    """An observer that remembers what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def stage_started(self, *_: Any) -> None: ...

    def stage_progress(self, *_: Any) -> None: ...

    def stage_ended(self, *_: Any) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_the_same_settings_are_not_tried_again(tmp_path: Path, monkeypatch: Any) -> None:
    ended: list[tuple[Path, str]] = []
    monkeypatch.setattr(runner, "end_tracked_run", lambda *of: ended.append(of))
    monkeypatch.setattr(
        runner, "run_processes", lambda *_, **__: processes.Ended(137, out_of_memory=True)
    )
    watching = Watching()
    one = LocalRunner(Records(tmp_path), watching, processes=2, delays=UsualDelays("1s", "1s"))
    status = one.run(digits()).status
    assert status is not None
    (stage, *_) = status.stages
    (attempt,) = stage.attempts
    assert (status.phase, stage.state, stage.reason) == (State.FAILED, State.FAILED, "OutOfMemory")
    assert (attempt.cause, attempt.exit_code) == (Cause.OUT_OF_MEMORY, 137)
    assert attempt.message is not None
    assert attempt.message.startswith("Out of memory: the kernel ended a process of it")
    assert "a rank at resolution 64" in attempt.message
    assert "lower it, loader.cacheBytes or loader.prefetch" in attempt.message
    assert ended == [(tmp_path / "jobs/default/digits/mixed/a1/stage.json", attempt.message)]
    assert watching.notes == []

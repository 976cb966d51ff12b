"""Whatever ends the owner of a local run, none of its processes is left. Real signals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from florence_jobs.evidence.keeper import AFTER
from florence_jobs.local import Records
from florence_jobs.local.processes import stage_processes
from tests.cli.test_submit import command, finished, job, write

pytestmark = pytest.mark.slow
LONG = 100_000
"""Steps that no test waits for."""


class Run:
    """A job of a home folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.file = folder / "job.yaml"

    def write(self, **changes: Any) -> None:
        write(self.file, job(**{"steps": LONG, "checkpoints": {"everySteps": 2}, **changes}))

    def submit(self, *options: str) -> subprocess.Popen[str]:
        return command(self.home, "submit", "-f", str(self.file), "--local", *options)

    def cli(self, *arguments: str) -> tuple[int, str, str]:
        return finished(command(self.home, *arguments, "--local"))

    @property
    def folder(self) -> Path:
        return self.home / "jobs" / "default" / "small"

    @property
    def status(self) -> dict[str, Any]:
        record = self.folder / "job.json"
        return json.loads(record.read_text()).get("status", {}) if record.exists() else {}

    @property
    def attempts(self) -> list[dict[str, Any]]:
        return [a for stage in self.status.get("stages", []) for a in stage.get("attempts", [])]

    @property
    def processes(self) -> list[psutil.Process]:
        return stage_processes(self.folder)

    def launcher_and_ranks(self) -> tuple[psutil.Process, list[psutil.Process]]:
        (launcher,) = (p for p in self.processes if "florence_jobs.launch" in p.cmdline())
        return launcher, sorted(
            (p for p in launcher.children()), key=lambda p: int(p.environ()["RANK"])
        )

    def trains(self, attempt: int = 1) -> bool:
        """Whether that attempt has a checkpoint of its own."""
        found = [a for a in self.attempts if a["number"] == attempt]
        return bool(found and found[0].get("lastCheckpointTime"))


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; where nobody buries orphans, a dead one still has its number."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    one = Run(tmp_path)
    one.write()
    yield one
    owner = Records(one.home).owner("default", "small")
    if owner:  # the test failed
        os.kill(owner, signal.SIGKILL)
    for process in one.processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_the_ranks_after_a_checkpoint(
    run: Run, number: signal.Signals, code: int
) -> None:
    process = run.submit()
    until(run.trains, process)
    process.send_signal(number)
    got, _, err = finished(process)
    assert got == code, err
    assert f"mixed: stopping after a checkpoint ({number.name})" in err
    assert "the same command continues it" in err
    assert run.processes == []
    assert run.status["phase"] == "Suspended"


def test_ranks_that_hang_leave_what_they_did(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AFTER, "0.2")
    process = run.submit("--processes", "2")
    until(run.trains, process)
    _, ranks = run.launcher_and_ranks()
    ranks[1].suspend()  # as one that waits for a broken disk
    process.send_signal(signal.SIGINT)
    folder = run.folder / "mixed" / "a1"
    until((folder / "worker-0.evidence.txt").exists, process)
    process.send_signal(signal.SIGINT)
    _, _, err = finished(process)
    assert "mixed: its ranks had to be killed: " in err
    assert "rank 1 gave no stacks" in err
    assert run.processes == []
    assert sorted(os.listdir(folder)) == ["log", "stage.json", "worker-0.evidence.txt"]
    code, out, err = run.cli("evidence", "small")
    assert code == 0, err
    assert "rank 1 gave no stacks" in out.splitlines()[0]
    assert (
        f"process {ranks[1].pid} did not answer" in run.cli("evidence", "small", "--rank", "1")[1]
    )


def test_a_closed_terminal_stops_it_too(run: Run) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "FLORENCE_HOME": str(run.home), "OMP_NUM_THREADS": "1"}
    program = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    arguments = ["-m", "florencectl.main", "submit", "-f", str(run.file), "--local"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    until(run.trains, process)
    os.close(ours)  # the window is closed
    assert process.wait(timeout=120) == 128 + signal.SIGHUP
    assert run.processes == []
    assert run.status["phase"] == "Suspended"


def test_what_a_killed_owner_leaves_stops_by_itself_and_is_shown_as_failed(run: Run) -> None:
    process = run.submit()
    until(run.trains, process)
    process.kill()
    process.communicate()
    until(lambda: not run.processes)
    log = (run.folder / "mixed" / "a1" / "log").read_text()
    assert "its checkpoint is committed" in log

    assert run.status["phase"] == "Running"  # the record, which nobody could mend
    (shown,) = json.loads(run.cli("get", "-o", "json")[1])
    assert shown["status"]["phase"] == "Failed"
    assert shown["status"]["stages"][0]["reason"] == "Interrupted"
    why = " ".join(run.cli("why", "small")[1].split())
    assert f"the process that ran it ({process.pid}) is gone" in why
    assert "resume small --local' goes on from its last checkpoint" in why
    assert "Failed" in run.cli("describe", "small")[1]
    assert run.cli("wait", "small", "--for", "finished")[0] == 1


def test_a_successor_begins_only_when_nothing_of_the_orphan_is_left(run: Run) -> None:
    process = run.submit()
    until(run.trains, process)
    orphans = run.processes
    for orphan in orphans:
        orphan.suspend()  # they cannot stop by themselves
    process.kill()
    process.communicate()

    successor = run.submit()
    assert successor.stderr is not None
    line = successor.stderr.readline()
    assert "processes of an earlier run are still there" in line
    assert len(run.attempts) == 1
    assert all(is_alive(orphan) for orphan in orphans)
    for orphan in orphans:
        orphan.resume()
    until(lambda: len(run.attempts) == 2, successor)
    assert [orphan for orphan in orphans if is_alive(orphan)] == []
    until(lambda: run.trains(2), successor)
    assert run.attempts[1]["restoredStep"] > 0
    successor.terminate()
    assert finished(successor)[0] == 143


def test_a_killed_rank_and_a_killed_launcher_are_named_and_tried_again_after_a_pause(
    run: Run,
) -> None:
    process = run.submit()
    until(run.trains, process)
    run.launcher_and_ranks()[1][1].kill()
    until(lambda: run.trains(2), process)
    assert run.attempts[0]["exitCode"] == 137
    assert run.attempts[0]["message"].startswith("rank 1 was killed (SIGKILL)")
    launcher, ranks = run.launcher_and_ranks()
    launcher.kill()
    until(lambda: run.trains(3), process)
    assert not any(is_alive(rank) for rank in ranks)
    assert run.attempts[1]["message"].startswith("the launcher of its ranks was killed (SIGKILL)")
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert code == 130, err
    assert "rank 1 was killed (SIGKILL)" in err
    assert "attempt 2 of 21 follows in 5 s, at " in err
    assert "attempt 3 of 21 follows in 5 s, at " in err  # a checkpoint ended the row


def test_a_detached_run_is_followed_stopped_and_resumed(run: Run) -> None:
    code, _, err = finished(run.submit("--detach"))
    assert code == 0, err
    assert "small: runs in the background (process " in err
    assert "stop small --local" in err
    until(run.trains)
    code, _, err = finished(run.submit())
    assert (code, "is being run by another process" in err) == (2, True)
    following = command(run.home, "logs", "small", "--local", "-f")
    watching = command(run.home, "get", "-w", "--local")
    assert following.stdout is not None
    assert "[rank " in following.stdout.readline()

    code, out, err = run.cli("stop", "small")
    assert code == 0, err
    assert out.startswith("florencejob/small stopped at step ")
    assert run.processes == []
    assert "its checkpoint is committed" in finished(following)[1]
    until(lambda: "Suspended" in json.dumps(run.status))
    watching.send_signal(signal.SIGINT)
    listed = finished(watching)[1]
    assert "Running" in listed
    assert run.cli("suspend", "small")[1] == "florencejob/small stopped already\n"
    assert "is stopped in stage 'mixed'" in run.cli("why", "small")[1]

    code, _, err = run.cli("resume", "small", "--detach")
    assert code == 0, err
    until(lambda: run.trains(2))
    assert run.cli("wait", "small", "--for", "running")[0] == 0
    code, _, err = run.cli("wait", "small", "--timeout", "0s")
    assert (code, "it is Running" in err) == (5, True)
    assert run.cli("stop", "small")[0] == 0
    assert run.cli("delete", "small", "--artifacts")[0] == 0
    assert not run.folder.exists()

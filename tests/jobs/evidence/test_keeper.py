"""Ranks that do not stop are asked what they do; those that stop well are not disturbed.

Real processes and signals; the launcher here only starts them and waits, without torch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from florence.storage import open_storage
from florence_jobs.evidence.gathering import Clock
from florence_jobs.evidence.keeper import AFTER, EvidenceKeeper, Worker, patience
from florence_jobs.evidence.rank import FOLDER, rank_files
from florence_jobs.evidence.report import groups_of, ranks_of
from florence_operator.api.ranks import sentence

LAUNCHER = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: [rank.terminate() for rank in ranks])
ranks = [
    subprocess.Popen([sys.executable, *sys.argv[2:]], env={**os.environ, "RANK": str(rank)})
    for rank in range(int(sys.argv[1]))
]
for rank in ranks:
    rank.wait()
"""
RANK = """
import os, signal, sys, threading, time
from florence_jobs.evidence.rank import offer_stacks
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
stacks = offer_stacks()

def hangs():
    while True:
        signal.pause()

def stops_when_asked_for_stacks():
    path = os.environ["FLORENCE_EVIDENCE_FOLDER"] + "/rank-" + os.environ["RANK"]
    while not stop.is_set() or open(path).read().count("\\n") < 3:
        time.sleep(0.02)

def stops_at_once():
    stop.wait()

globals()[sys.argv[1]]()
stacks.close(143)
os._exit(143)
"""


class Gang:
    """Ranks under a launcher, and the keeper of what they do."""

    def __init__(self, folder: Path, what: str, *, ranks: int = 2, patience: float = 0.0) -> None:
        self.artifacts = open_storage(str(folder / "artifacts"))
        self.folder = folder / "ranks"
        worker = Worker(
            who="worker 0 of stage 'mixed', attempt 2",
            index=0,
            folder=self.folder,
            storage=lambda: self.artifacts,
            prefix="logs/attempt-2/",
            tail=lambda: b"Step 1\nStep 2\n",
        )
        self.keeper = EvidenceKeeper(worker, patience=patience)
        (folder / "rank.py").write_text(RANK)
        self.launcher = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(ranks), str(folder / "rank.py"), what],
            env={**os.environ, **self.keeper.environment},
        )
        until(lambda: len(rank_files(self.folder)) == ranks)

    def stop(self) -> None:
        """Ask the ranks to stop as a pod's first process would."""
        self.launcher.terminate()
        asked = time.monotonic()
        until(lambda: self.keeper.look(self.launcher.pid, asked) or self._has_begun)

    @property
    def _has_begun(self) -> bool:
        return self.keeper._thread is not None

    @property
    def kept(self) -> list[str]:
        return [entry.key for entry in self.artifacts.list()]

    def kill(self) -> None:
        """End every rank as the launcher would after their grace."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.launcher.pid).children():
                child.kill()
        self.launcher.wait(60)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def gang(tmp_path: Path) -> Iterator[Callable[..., Gang]]:
    gangs: list[Gang] = []

    def start(what: str, **options: Any) -> Gang:
        gangs.append(Gang(tmp_path, what, **options))
        return gangs[-1]

    yield start
    for each in gangs:
        each.kill()


def test_ranks_that_hang_leave_their_stacks(gang: Callable[..., Gang]) -> None:
    hung = gang("hangs")
    hung.stop()
    until(lambda: hung.kept)
    hung.kill()
    groups = hung.keeper.close()
    assert hung.kept == ["logs/attempt-2/worker-0.evidence.txt"]
    text = hung.artifacts.read(hung.kept[0]).decode()
    assert [each.rank for each in ranks_of(text)] == [0, 1]
    assert groups_of(ranks_of(text)) == groups
    assert sentence(groups).startswith("ranks 0 to 1 are in ")
    assert sentence(groups).endswith(" hangs")
    assert text.endswith("Step 1\nStep 2\n")
    assert not hung.folder.exists()


def test_ranks_that_stop_well_are_never_asked(gang: Callable[..., Gang]) -> None:
    well = gang("stops_at_once", patience=60.0)
    well.launcher.terminate()
    asked = time.monotonic()
    while well.launcher.poll() is None:
        well.keeper.look(well.launcher.pid, asked)
        time.sleep(0.02)
    assert not well._has_begun
    assert well.keeper.close() == ()
    assert well.kept == []
    assert not well.folder.exists()


def test_what_was_kept_of_ranks_that_only_took_longer_is_removed(
    gang: Callable[..., Gang],
) -> None:
    late = gang("stops_when_asked_for_stacks")
    late.stop()
    assert late.launcher.wait(60) == 0
    assert late.keeper.close() == ()
    assert late.kept == []


def test_nothing_is_asked_of_ranks_that_nobody_asked_to_stop(gang: Callable[..., Gang]) -> None:
    running = gang("hangs", ranks=1)
    running.keeper.look(running.launcher.pid, None)
    assert not running._has_begun
    running.kill()
    assert running.keeper.close() == ()
    assert running.kept == []


def test_a_process_that_got_a_ranks_number_is_left_alone(gang: Callable[..., Gang]) -> None:
    hung = gang("hangs", ranks=1)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    try:
        path = hung.folder / "rank-7"
        path.write_text(f"rank 7, process {stranger.pid}, main thread 0x1\n")
        hung.stop()
        until(lambda: hung.kept)
        text = hung.artifacts.read(hung.kept[0]).decode()
        assert [each.rank for each in ranks_of(text)] == [0]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


class Refusing:
    """A storage that is gone."""

    def __getattr__(self, name: str) -> Any:
        raise OSError("the disk is gone")


def test_a_storage_that_fails_fails_nothing_else(
    gang: Callable[..., Gang], caplog: pytest.LogCaptureFixture
) -> None:
    hung = gang("hangs", ranks=1)
    hung.artifacts = Refusing()  # type: ignore[assignment]
    hung.stop()
    until(lambda: "the disk is gone" in caplog.text)
    hung.kill()
    assert sentence(hung.keeper.close()).startswith("rank 0 is in ")


def test_a_rank_that_cannot_answer_is_told_with_its_state(gang: Callable[..., Gang]) -> None:
    hung = gang("hangs", ranks=1)
    (rank,) = rank_files(hung.folder)
    os.kill(rank.process, signal.SIGSTOP)  # as one in an uninterruptible sleep
    hung.keeper._clock = Clock(sleep=lambda _: None, now=iter(range(10**9)).__next__)
    hung.keeper.look(hung.launcher.pid, -1.0)
    until(lambda: hung.kept)
    hung.kill()
    assert sentence(hung.keeper.close()) == "rank 0 gave no stacks"
    (told,) = ranks_of(hung.artifacts.read(hung.kept[0]).decode())
    assert told.state.endswith("it is in state stopped")


def test_ranks_have_a_part_of_the_grace_to_stop() -> None:
    assert patience(60, {}) == 15
    assert patience(60, {AFTER: "5"}) == 5
    assert patience(10, {AFTER: "20"}) == 10
    assert patience(60, {AFTER: "soon"}) == 15
    assert patience(60, {AFTER: "-1"}) == 15


@pytest.mark.parametrize("grace", [1.0, 5.0, 30.0, 55.0, 600.0])
@pytest.mark.parametrize("given", [{}, {AFTER: "3"}, {AFTER: "600"}])
def test_all_of_it_ends_within_the_grace_and_half_a_minute(
    grace: float, given: dict[str, str], tmp_path: Path
) -> None:
    worker = Worker(who="w", index=0, folder=tmp_path / "ranks", storage=lambda: Refusing())
    keeper = EvidenceKeeper.within(grace, worker, given)
    assert keeper._patience + keeper._longest <= grace
    assert 0 <= keeper._longest <= 30


def test_a_rank_without_a_folder_answers_into_its_log(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\n"
        "from florence_jobs.evidence.rank import offer_stacks\n"
        "offer_stacks().close(0)\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != FOLDER}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True
    )
    assert f'File "{script}", line 4 in <module>' in done.stderr

"""The launcher keeps the exit code that torchrun would lose. Real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing import SignalException

from florence_jobs import launch

# Rank 1 decides; rank 0 waits so that it never fails first.
PROGRAM = """
import os, signal, sys, time
rank, what = int(os.environ["RANK"]), sys.argv[1]
if what == "stop":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    open(sys.argv[2] + f"/ready-{rank}", "w").close()
    time.sleep(60)
if what == "ok":
    sys.exit(0)
if rank == 0:
    time.sleep(60)
if what == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(what))
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    command = [
        *(sys.executable, "-m", "florence_jobs.launch", "--standalone", "--nproc-per-node=2"),
        *("--local-addr=127.0.0.1", str(program), *arguments),
    ]
    (folder / "tmp").mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")}
    return subprocess.Popen(command, env=environment)


@pytest.mark.parametrize(("what", "code"), [("ok", 0), ("4", 4), ("kill", 137)])
def test_the_code_of_the_process_that_failed_first_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], what: str, code: int
) -> None:
    assert start(tmp_path, what).wait(timeout=120) == code
    assert not list((tmp_path / "tmp").iterdir())
    named = "[rank 1] ERROR rank 1 was killed (SIGKILL): by somebody, or by the system because "
    assert (named in capfd.readouterr().err) == (what == "kill")


def test_sigterm_reaches_every_process_and_ends_in_143(tmp_path: Path) -> None:
    launcher = start(tmp_path, "stop", str(tmp_path))
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert launcher.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=60) == 143


@pytest.mark.parametrize("cause", [SignalException("asked", signal.SIGTERM), KeyError("other")])
def test_a_signal_that_torch_trips_over_is_one_still(
    cause: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(*_: object) -> None:
        try:
            raise cause
        except BaseException:
            raise UnboundLocalError("start") from None

    monkeypatch.setattr(launch, "launch_agent", timed)
    arguments = ["--standalone", "--nnodes=1", "--nproc-per-node=1", "program.py"]
    if isinstance(cause, SignalException):
        assert launch.launch(arguments) == 143
    else:
        with pytest.raises(UnboundLocalError):
            launch.launch(arguments)

"""What GPUs leave, where there are none: real pipes and files, and a kernel's log as it is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from florence_jobs.evidence import gathering
from florence_jobs.evidence.devices import dumps, gpu_errors, recorder_defaults, request_dumps
from florence_jobs.evidence.gathering import Clock, gather_dumps
from florence_jobs.evidence.rank import FOLDER

XID = "NVRM: Xid (PCI:0000:3b:00): 79, pid=12, name=python, GPU has fallen off the bus."


def test_the_flight_recorder_is_told_where_to_write_unless_the_user_did() -> None:
    told = recorder_defaults({FOLDER: "/tmp/e"})
    assert told["TORCH_NCCL_TRACE_BUFFER_SIZE"] == told["TORCH_FR_BUFFER_SIZE"] == "2000"
    assert told["TORCH_NCCL_DEBUG_INFO_TEMP_FILE"] == "/tmp/e/nccl-rank-"
    assert told["TORCH_NCCL_DEBUG_INFO_PIPE_FILE"] == "/tmp/e/nccl-rank-"
    assert told["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"
    own = recorder_defaults({FOLDER: "/tmp/e", "TORCH_NCCL_TRACE_BUFFER_SIZE": "0"})
    assert "TORCH_FR_BUFFER_SIZE" not in own
    assert "TORCH_NCCL_TRACE_BUFFER_SIZE" not in own
    assert recorder_defaults({}) == {}


def test_only_a_pipe_that_somebody_reads_is_written_to(tmp_path: Path) -> None:
    assert not request_dumps(tmp_path, [0, 1], {})
    os.mkfifo(tmp_path / "nccl-rank-0.pipe")
    (tmp_path / "nccl-rank-1.pipe").write_text("no pipe")
    assert not request_dumps(tmp_path, [0, 1], {})
    reader = os.open(tmp_path / "nccl-rank-0.pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert request_dumps(tmp_path, [0, 1], {})
        assert os.read(reader, 8) == b"1"
    finally:
        os.close(reader)
    assert (tmp_path / "nccl-rank-1.pipe").read_text() == "no pipe"


def test_dumps_are_found_where_the_user_lets_them_be_written(tmp_path: Path) -> None:
    (tmp_path / "nccl-rank-3").write_bytes(b"ours")
    (tmp_path / "own3").write_bytes(b"theirs")
    (tmp_path / "nccl-rank-4").touch()
    assert dumps(tmp_path, [3, 4], {}) == {3: tmp_path / "nccl-rank-3"}
    own = {"TORCH_NCCL_DEBUG_INFO_TEMP_FILE": f"{tmp_path}/own"}
    assert dumps(tmp_path, [3, 4], own) == {3: tmp_path / "own3"}


class Recorder:
    """A flight recorder that dumps a while after it was asked, in two writes."""

    def __init__(self, folder: Path) -> None:
        self.dump = folder / "nccl-rank-0"
        os.mkfifo(folder / "nccl-rank-0.pipe")
        self.pipe = os.open(folder / "nccl-rank-0.pipe", os.O_RDONLY | os.O_NONBLOCK)
        self.looks = 0

    def sleep(self, _: float) -> None:
        self.looks += 1
        if self.looks in (3, 4):
            with self.dump.open("ab") as file:
                file.write(b"half")


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    made = Recorder(tmp_path)
    yield made
    os.close(made.pipe)


@pytest.mark.usefixtures("no_torch_variables")
def test_a_dump_is_waited_for_until_it_is_whole(recorder: Recorder, tmp_path: Path) -> None:
    clock = Clock(now=lambda: 0.0, sleep=recorder.sleep)
    found = gather_dumps(tmp_path, [0], lambda: False, clock)
    assert found == {0: recorder.dump}
    assert recorder.dump.read_bytes() == b"halfhalf"


@pytest.mark.usefixtures("no_torch_variables")
def test_nothing_is_waited_for_when_it_is_over(recorder: Recorder, tmp_path: Path) -> None:
    clock = Clock(now=lambda: 0.0, sleep=recorder.sleep)
    assert gather_dumps(tmp_path, [0], lambda: True, clock) == {}
    assert recorder.looks == 0


@pytest.mark.usefixtures("no_torch_variables")
def test_a_dump_that_is_too_large_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "LARGEST_DUMP", 3)
    (tmp_path / "nccl-rank-0").write_bytes(b"four")
    assert gather_dumps(tmp_path, [0], lambda: False, Clock()) == {}


@pytest.fixture
def no_torch_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("TORCH_FR_", "TORCH_NCCL_"))]:
        monkeypatch.delenv(name)


def test_the_gpus_lines_are_picked_from_the_kernels_log() -> None:
    assert gpu_errors(lambda: ["usb 1-1: new device", f"{XID}\n"]) == [XID]
    assert len(gpu_errors(lambda: [XID] * 500)) == 50


def test_a_kernels_log_that_may_not_be_read_is_none() -> None:
    def refused() -> list[str]:
        raise PermissionError("dmesg: read kernel buffer failed")

    assert gpu_errors(refused) == []
    assert isinstance(gpu_errors(), list)  # whatever this machine allows

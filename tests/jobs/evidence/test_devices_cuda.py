"""NCCL's flight recorder dumps when it is asked to, with the variables that the launcher sets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from florence_jobs.evidence.devices import recorder_defaults
from florence_jobs.evidence.gathering import Clock, gather_dumps
from florence_jobs.evidence.rank import FOLDER

pytestmark = pytest.mark.cuda

RANK = """
import time
import torch
import torch.distributed as dist
dist.init_process_group("nccl", rank=0, world_size=1, device_id=torch.device("cuda", 0))
dist.all_reduce(torch.ones(1, device="cuda"))
torch.cuda.synchronize()
print("there", flush=True)
time.sleep(600)
"""


def test_a_rank_dumps_what_nccl_did_when_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in os.environ if n.startswith(("TORCH_FR_", "TORCH_NCCL_"))]:
        monkeypatch.delenv(name)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    told = recorder_defaults({FOLDER: str(tmp_path)})
    rank = subprocess.Popen(
        [sys.executable, "-c", RANK],
        env={**os.environ, **address, **told},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "there\n"
        deadline = time.monotonic() + 60
        while not (tmp_path / "nccl-rank-0.pipe").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        found = gather_dumps(tmp_path, [0], lambda: False, Clock())
        assert found == {0: tmp_path / "nccl-rank-0"}
        assert b"all_reduce" in found[0].read_bytes()
    finally:
        rank.kill()
        rank.communicate()

"""DeepSpeed where images run it: no compiler on the path, nowhere to write."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
    ),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc"),
]
ROOT = Path(__file__).parents[3]

PROGRAM = """
from florence.config import EngineKind
from florence.distributed.engines import make_engine
from florence.distributed.world import join, leave
from florence.losses.contrastive import ContrastiveObjective
from tests.florence.distributed.tiny import TinyTwoTower, tiny_batch, tiny_settings
settings = tiny_settings()
world = join(60)
engine = make_engine(
    EngineKind.DEEPSPEED, TinyTwoTower(), settings, ContrastiveObjective(settings.loss), world
)
result = engine.step(tiny_batch(0), lr=0.01)
print("stepped", engine.name, result.skipped)
leave()
"""


def test_a_step_needs_no_compiler_and_no_writable_home(tmp_path: Path) -> None:
    # Nothing can be created under /proc, by no user: a stand-in for a read-only file system.
    environment = {
        "PATH": str(tmp_path),
        "HOME": "/proc/florence",
        "TORCH_EXTENSIONS_DIR": "/proc/florence",
        "TRITON_CACHE_DIR": "/proc/florence",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    assert shutil.which("c++", path=environment["PATH"]) is None
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd="/proc",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "stepped deepspeed False" in done.stdout, done.stderr[-2000:]

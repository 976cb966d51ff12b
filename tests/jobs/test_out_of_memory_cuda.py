"""A stage that overflows a real GPU's memory, and the settings that it is told to use instead."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from florence.data.digits import write_digits

pytestmark = pytest.mark.cuda


def run(folder: Path, data: Path, config: dict[str, Any]) -> tuple[int, str]:
    """A stage's process and what it said on stderr."""
    plan = {
        "job": "j",
        "namespace": "n",
        "uid": "u",
        "stage": "s",
        "attempt": 1,
        "kind": "pretrain",
        "config": {
            "data": str(data / "train"),
            "steps": 1,
            "resolution": 448,
            "loader": {"workers": 4},
            "text": {"templates": "digits"},
            "engine": "torch",
            "precision": "bf16",
            **config,
        },
        "model": {"preset": "coswin-b"},
        "output": str(folder / "out"),
    }
    folder.mkdir()
    (folder / "stage.json").write_text(json.dumps(plan))
    done = subprocess.run(
        [sys.executable, "-m", "florence_jobs.main", str(folder / "stage.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_the_settings_that_it_is_told_do_fit(tmp_path: Path) -> None:
    data = tmp_path / "digits"
    write_digits(str(data))
    batch = {"batchSize": 512}
    code, said = run(tmp_path / "first", data, batch)
    assert code == 2, said
    assert "out of memory" in said
    advice = re.search(r"GB; (.*?) would need ([\d.]+) GB for the same result", said)
    assert advice, said
    changes = yaml.safe_load(advice[1].replace(", ", "\n"))
    code, said = run(tmp_path / "second", data, batch | changes)
    assert code == 0, said

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests away from the cluster and the settings of whoever runs them."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    for variable in ("FLORENCECTL_QUIET", "FLORENCE_S3_ENDPOINT", "NO_COLOR"):
        monkeypatch.setenv(variable, "")  # set, so that what a test changes is undone

"""Clips that tests of both modes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.florence.tasks.finetune.running import two_tower_folder
from tests.florence.tasks.video.running import clip_shards


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports go to a folder of this session."""
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight clips of each way to move."""
    return clip_shards(tmp_path_factory.mktemp("clips"), 8)


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three others of each."""
    return clip_shards(tmp_path_factory.mktemp("held-out"), 3, start=500)


@pytest.fixture(scope="session")
def two_towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of images to start from."""
    return two_tower_folder(tmp_path_factory.mktemp("two-towers"))

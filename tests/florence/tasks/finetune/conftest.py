"""Real data that tests of all modes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.florence.tasks.finetune.running import class_folders, two_tower_folder


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports go to a folder of this session."""
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight images of each of three colours, in class folders."""
    return class_folders(tmp_path_factory.mktemp("colours"), 8)


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four other images of each."""
    return class_folders(tmp_path_factory.mktemp("held-out"), 4, start=500)


@pytest.fixture(scope="session")
def two_towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to start from."""
    return two_tower_folder(tmp_path_factory.mktemp("two-towers"))

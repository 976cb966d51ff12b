"""Real data that tests of all kinds share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.florence.tasks.vision_language.running import (
    shards_of_captions,
    shards_of_questions,
    two_tower_folder,
)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports go to a folder of this session."""
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Thirty-six questions about twelve images of three colours, in shards."""
    return shards_of_questions(tmp_path_factory.mktemp("questions"), 12)


@pytest.fixture(scope="session")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve images of three colours with two captions each, in shards."""
    return shards_of_captions(tmp_path_factory.mktemp("captioned"), 12)


@pytest.fixture(scope="session")
def two_towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to start from."""
    return two_tower_folder(tmp_path_factory.mktemp("two-towers"))

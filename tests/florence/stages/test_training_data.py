"""Training data that is no shards yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from florence.distributed.world import World
from florence.errors import ConfigurationError, DataError, StoppedError
from florence.stages.training_data import READ_AS_THEY_ARE, imported, open_training_shards
from tests.florence.data.making import picture
from tests.florence.stages.test_train import context


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two class folders, and a home folder for imports."""
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path / "home"))
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "data" / name / f"{i}.png").write_bytes(picture(10 * number + i))
    return str(tmp_path / "data")


def test_class_folders_become_shards_once(folders: str, tmp_path: Path) -> None:
    phases: list[str] = []
    around = context(tmp_path / "out", report=lambda progress: phases.append(progress.phase))
    shards = open_training_shards(around, folders)
    assert len(shards) == 6
    assert shards.class_names == ("cat", "dog")
    assert {shards.read(i).text for i in range(6)} == {"cat", "dog"}
    assert "import" in phases
    before = phases.count("import")
    again = open_training_shards(around, folders)
    assert again.fingerprint == shards.fingerprint
    assert phases.count("import") == before + 1  # asked for, and found there


def test_shards_and_what_is_read_as_it_is_stay(folders: str, shards: str, tmp_path: Path) -> None:
    around = context(tmp_path / "out")
    assert imported(around, shards) == shards
    assert imported(around, folders, but=READ_AS_THEY_ARE) == folders
    assert imported(around, "builtin:digits/train") == "builtin:digits/train"


def test_several_machines_are_told_the_command(
    folders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(World, "on_first", lambda self, function: function())
    around = replace(context(tmp_path / "out"), world=World(0, 4, 0, 2))
    with pytest.raises(
        ConfigurationError, match=f"florencectl data import class-folders {folders} OUT"
    ):
        open_training_shards(around, folders)


def test_a_stop_during_the_import_is_obeyed(folders: str, tmp_path: Path) -> None:
    around = context(tmp_path / "out")
    around.stop.request()
    with pytest.raises(StoppedError, match="the import goes on next time"):
        open_training_shards(around, folders)


def test_nothing_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        open_training_shards(context(tmp_path / "out"), str(tmp_path / "nowhere"))

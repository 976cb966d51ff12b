from __future__ import annotations

import json
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest

from florence.data.importing.once import detect_format, import_once, shards_of
from florence.data.importing.settings import ClassFolders, Table
from florence.data.shards import Need, ShardSet
from florence.errors import ConfigurationError, DataError
from tests.florence.data.making import picture, write_shards


def class_folders(folder: Path) -> Path:
    for number, name in enumerate(["a", "b", "a"]):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{number}.png").write_bytes(picture(number))
    return folder


def name_of(uri: Path | str) -> str | None:
    found = detect_format(str(uri))
    return found.name if found else None


def test_formats_are_found_by_name_and_content(tmp_path: Path) -> None:
    assert name_of(class_folders(tmp_path / "folders")) == "class-folders"
    for suffix in ("csv", "tsv", "parquet"):
        assert name_of(tmp_path / f"x.{suffix.upper()}") == suffix
    karpathy = tmp_path / "k.json"
    karpathy.write_text(json.dumps({"images": [{"filename": "x", "sentences": []}]}))
    assert name_of(karpathy) == "karpathy"
    coco = tmp_path / "c.json"
    coco.write_text(
        json.dumps({"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "x"}]})
    )
    assert name_of(coco) == "coco-captions"
    write_shards(tmp_path / "shards", 2, 2)
    for uri in (tmp_path / "shards", tmp_path / "shards/00000.tar", "builtin:digits/train"):
        assert name_of(uri) is None
        assert shards_of(str(uri), home=tmp_path) == str(uri)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match="JSON of no known format"):
        detect_format(str(tmp_path / "other.json"))
    with pytest.raises(ConfigurationError, match="of no format"):
        import_once(str(tmp_path / "shards"), home=tmp_path / "home")


def test_it_is_imported_once_and_anew_when_source_or_settings_change(tmp_path: Path) -> None:
    source, home = class_folders(tmp_path / "my set"), tmp_path / "home"
    folder = import_once(str(source), home=home)
    assert folder.parent == home / "data" / "imported"
    assert folder.name.startswith("my-set-")
    assert len(ShardSet.open(str(folder), need=Need.CLASS)) == 3
    stamps = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert import_once(str(source), home=home) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == stamps
    assert import_once(str(source), home=home, settings=ClassFolders(workers=1)) == folder
    assert import_once(str(source), home=home, settings=ClassFolders(shorter_side=16)) != folder
    (source / "c").mkdir()
    (source / "c" / "9.png").write_bytes(picture(9))
    assert len(ShardSet.open(str(import_once(str(source), home=home)))) == 4
    with pytest.raises(ConfigurationError, match="another format's"):
        import_once(str(source), home=home, settings=Table())


def test_a_failed_import_leaves_no_folder(tmp_path: Path) -> None:
    source, home = class_folders(tmp_path / "set"), tmp_path / "home"
    (source / "a" / "0.png").write_bytes(b"?")
    with pytest.raises(DataError, match="broken"):
        import_once(str(source), home=home)
    assert not [p for p in (home / "data" / "imported").iterdir() if not p.name.startswith(".")]
    done = import_once(str(source), home=home, settings=ClassFolders(max_broken_fraction=0.5))
    assert len(ShardSet.open(str(done))) == 2


def race(source: Path, home: Path, answers: SimpleQueue) -> None:
    stored: list[str] = []
    folder = import_once(
        str(source), home=home, on_shard=lambda name, rows, samples: stored.append(name)
    )
    answers.put((str(folder), len(stored)))


def test_of_processes_that_race_one_imports(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "set")
    context = get_context("fork")
    answers = context.SimpleQueue()
    children = [
        context.Process(target=race, args=(source, tmp_path / "home", answers)) for _ in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=120)
        assert child.exitcode == 0
    told = [answers.get() for _ in children]
    assert len({folder for folder, _ in told}) == 1
    assert sorted(stored for _, stored in told) == [0, 0, 1]


def test_a_home_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "set")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="FLORENCE_HOME"):
        import_once(str(source), home=tmp_path / "file")

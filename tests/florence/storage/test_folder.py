"""What only folders can do wrong: half-written files, full disks, missing permissions."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from florence.errors import ConfigurationError, FlorenceError, TransientError
from florence.storage import FolderStorage, Storage
from florence.storage import folder as folder_module
from tests.child import run_child


def _write_half_and_die(uri: str, key: str, new: bool) -> None:
    def half(data: bytes, file: Any) -> None:
        file.write(data[: len(data) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    folder_module._copy = half
    storage = FolderStorage(uri)
    (storage.write_new if new else storage.write)(key, b"0123456789")


@pytest.mark.parametrize("new", [False, True])
def test_a_writer_that_dies_leaves_nothing_visible(folder_storage: Storage, new: bool) -> None:
    key = "a/b/key" if new else "a/key"
    if not new:
        folder_storage.write(key, b"before")
    assert run_child(_write_half_and_die, folder_storage.uri, key, new) == -signal.SIGKILL
    left = [path for path in Path(folder_storage.uri).rglob("*") if path.is_file()]
    assert any(path.read_bytes() == b"01234" for path in left), "the test did not die half-way"
    if new:
        assert folder_storage.list() == []
        assert folder_storage.size(key) is None
    else:
        assert folder_storage.read(key) == b"before"
        assert [entry.key for entry in folder_storage.list()] == [key]
    assert folder_storage.write_new(key, b"after") is new


def test_what_died_long_ago_is_swept_and_nothing_else(folder_storage: Storage) -> None:
    folder_storage.write("a/whole", b"x")
    run_child(_write_half_and_die, folder_storage.uri, "dead/key", False)
    assert folder_storage.sweep_unfinished(before=time.time() - 3600) == 0
    assert folder_storage.sweep_unfinished(before=time.time() + 3600) == 1
    files = [path.name for path in Path(folder_storage.uri).rglob("*")]
    assert sorted(files) == ["a", "whole"]


def test_a_reader_in_the_middle_of_a_file_finishes_it_undisturbed(folder_storage: Storage) -> None:
    folder_storage.write("key", b"old content")
    with Path(folder_storage.url("key")).open("rb", buffering=0) as reading:
        assert reading.read(4) == b"old "
        folder_storage.write("key", b"NEW CONTENT")
        assert reading.read() == b"content"
    assert folder_storage.read("key") == b"NEW CONTENT"


def _fill_quota(uri: str) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    storage = FolderStorage(uri)
    storage.write("small", b"x" * 500)
    try:
        storage.write("large", b"x" * 5000)
    except TransientError as error:
        return str(error)
    return "no error"


def test_a_file_that_does_not_fit_is_named_and_absent(folder_storage: Storage) -> None:
    message = run_child(_fill_quota, folder_storage.uri, answer=True)
    assert f"{folder_storage.uri}/large" in message
    assert "free space" in message
    assert [entry.key for entry in folder_storage.list()] == ["small"]


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs privileges")
    try:
        storage = FolderStorage(tmp_path / "storage")
        storage.write("key", b"before")
        for write in (storage.write, storage.write_new):
            with pytest.raises(TransientError, match=f"{tmp_path}/storage/(key|other).*free space"):
                write("key" if write == storage.write else "other", b"x" * 100_000)
        assert storage.read("key") == b"before"
        assert [path.name for path in (tmp_path / "storage").iterdir()] == ["key"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_without_hard_links_creating_once_still_works(
    folder_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert folder_storage.write_new("key", b"first")
    assert not folder_storage.write_new("key", b"second")
    assert folder_storage.read("key") == b"first"
    assert len(list(Path(folder_storage.uri).iterdir())) == 1


def test_a_file_in_the_way_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    storage = FolderStorage(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="file/key"):
        storage.write("key", b"x")
    assert storage.size("key") is None


def test_a_folder_without_permission_is_a_configuration_error(
    folder_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may write anywhere, so this cannot be real
    with pytest.raises(ConfigurationError, match="key: Permission denied"):
        folder_storage.write("key", b"x")


def test_a_failing_disk_may_be_tried_again(
    folder_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(TransientError, match="Input/output error"):
        folder_storage.write("key", b"x")
    monkeypatch.undo()
    assert folder_storage.list() == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_a_folder_that_takes_no_files_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(FlorenceError, match="/proc"):
        FolderStorage("/proc").write("florence", b"")

"""What every storage promises, on a folder and on S3."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.errors import ConfigurationError
from florence.storage import MissingKeyError, Storage, checked_key, open_storage


def test_an_object_reads_back_whole_and_in_ranges(any_storage: Storage) -> None:
    body = bytes(range(256)) * 10
    any_storage.write("a/b/c.bin", body)
    assert any_storage.read("a/b/c.bin") == body
    assert any_storage.size("a/b/c.bin") == len(body)
    for start, length in [(0, 1), (7, 300), (0, len(body)), (2500, 1000), (len(body), 5), (9, 0)]:
        expected = body[start : start + length]
        assert any_storage.read_range("a/b/c.bin", start, length) == expected
    assert any_storage.read_range("a/b/c.bin", 10**6, 3) == b""


def test_bytes_views_and_files_are_written_alike(any_storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    any_storage.write("file", source)
    any_storage.write("view", memoryview(b"0123456789xx")[:10])
    any_storage.write("bytes", b"0123456789")
    any_storage.write("empty", b"")
    assert {any_storage.read(key) for key in ("file", "view", "bytes")} == {b"0123456789"}
    assert any_storage.size("empty") == 0
    assert any_storage.read("empty") == b""


def test_a_write_replaces_and_write_new_does_not(any_storage: Storage) -> None:
    assert any_storage.write_new("key", b"first")
    assert not any_storage.write_new("key", b"second")
    assert not any_storage.write_new("key", b"first")
    assert any_storage.read("key") == b"first"
    any_storage.write("key", b"third")
    assert any_storage.read("key") == b"third"


def test_one_of_many_concurrent_creators_wins(any_storage: Storage) -> None:
    wins: list[int] = []
    ready = threading.Barrier(8)

    def create(number: int) -> None:
        ready.wait()
        if any_storage.write_new("contested", b"%d" % number * 1000):
            wins.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert any_storage.read("contested") == b"%d" % wins[0] * 1000
    assert [entry.key for entry in any_storage.list()] == ["contested"]


def test_listing_is_recursive_sorted_and_by_prefix_of_the_name(any_storage: Storage) -> None:
    assert any_storage.list() == []
    before = time.time()
    for key in ("b", "a/2", "a/10/x", "ab/1", "a/1"):
        any_storage.write(key, key.encode())
    assert [entry.key for entry in any_storage.list()] == ["a/1", "a/10/x", "a/2", "ab/1", "b"]
    assert [entry.key for entry in any_storage.list("a/1")] == ["a/1", "a/10/x"]
    assert [entry.key for entry in any_storage.list("a")] == ["a/1", "a/10/x", "a/2", "ab/1"]
    assert any_storage.list("nothing/here") == []
    for entry in any_storage.list():
        assert entry.size == len(entry.key)
        assert abs(entry.modified - before) < 600


def test_deleting_is_final_and_harmless_twice(any_storage: Storage) -> None:
    any_storage.write("a/b/c", b"x")
    any_storage.delete("a/b/c")
    any_storage.delete("a/b/c")
    any_storage.delete("never/was")
    assert any_storage.list() == []
    assert any_storage.size("a/b/c") is None
    any_storage.write("a/b/c", b"y")
    assert any_storage.read("a/b/c") == b"y"


def test_a_missing_key_is_named(any_storage: Storage) -> None:
    for read in (
        lambda: any_storage.read("not/there"),
        lambda: any_storage.read_range("not/there", 0, 4),
        lambda: any_storage.read_range("not/there", 0, 0),
    ):
        with pytest.raises(MissingKeyError) as caught:
            read()
        assert any_storage.url("not/there") in str(caught.value)
        assert "\n" not in str(caught.value)
        assert pickle.loads(pickle.dumps(caught.value)).url == caught.value.url
    assert any_storage.size("not/there") is None


def test_a_storage_survives_pickling(any_storage: Storage) -> None:
    any_storage.write("key", b"value")
    copy: Storage = pickle.loads(pickle.dumps(any_storage))
    assert copy.uri == any_storage.uri
    assert copy.read("key") == b"value"


def test_readers_see_the_old_object_or_the_new_one(any_storage: Storage) -> None:
    bodies = {bytes([letter]) * 200_000 for letter in b"abc"}
    any_storage.write("key", b"a" * 200_000)
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for body in bodies:
                any_storage.write("key", body)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        seen = {any_storage.read("key") for _ in range(40)}
    finally:
        stop.set()
        writer.join()
    assert seen <= bodies


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a\\b", "a\0b"])
def test_keys_that_leave_the_storage_are_refused(any_storage: Storage, key: str) -> None:
    for use in (any_storage.read, any_storage.size, any_storage.delete):
        with pytest.raises(ValueError, match="not a storage key"):
            use(key)
    with pytest.raises(ValueError, match="not a storage key"):
        any_storage.write(key, b"")


@given(st.text("ab/.\\", max_size=8))
def test_a_checked_key_stays_inside_its_folder(key: str) -> None:
    try:
        checked_key(key)
    except ValueError:
        return
    root = Path("/root/folder")
    assert root in (root / key).resolve().parents


def test_uris_lead_to_folders_and_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_storage("some/folder").uri == str(tmp_path / "some/folder")
    assert open_storage("/x/y").uri == "/x/y"
    assert open_storage("file:///x/a%20b").uri == "/x/a b"
    assert open_storage("s3://bucket").url("k") == "s3://bucket/k"
    assert open_storage("s3://bucket/a/b/").url("k") == "s3://bucket/a/b/k"


@pytest.mark.parametrize(
    "uri",
    ["", "gs://bucket/x", "file://host/x", "s3://", "s3:///x", "s3://b!d/x", "s3://bucket/../x"],
)
def test_other_uris_are_refused_in_one_line(uri: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_storage(uri)
    assert "\n" not in str(caught.value)


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_storage("s3://AKIA:hush@bucket/prefix")
    assert "hush" not in str(caught.value)
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)

"""What is deleted, what never is, and what clocks have to do with it."""

from __future__ import annotations

import pytest

from florence.checkpoint import begin_attempt, newest, retain
from florence.checkpoint.manifest import new_prefix
from florence.storage import Storage
from tests.florence.checkpoint.faults import (
    HookedStorage,
    MemoryStorage,
    Moment,
    check,
    save,
    writer,
)

HOUR = 3600.0
NOW = 1_800_000_000.0


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def _steps(storage: Storage) -> list[int]:
    return [int(entry.key[8:20]) for entry in storage.list("commits/")]


def _prefixes(storage: Storage) -> set[str]:
    return {entry.key.rpartition("/")[0] for entry in storage.list("data/")}


def test_the_newest_are_kept_with_their_data_and_no_other(any_storage: Storage) -> None:
    saver = writer(any_storage, 1, keep=2)
    for step in (10, 20, 30):
        save(saver, step, 1)
    assert _steps(any_storage) == [20, 30]
    assert {prefix.split("/")[1] for prefix in _prefixes(any_storage)} == {"step-20", "step-30"}
    found = newest(any_storage)
    assert found is not None
    assert check(found) == (30, 1)


def test_a_commit_goes_before_its_data() -> None:
    storage, deleted = MemoryStorage(), []

    def watch(operation: str, key: str, moment: Moment) -> None:
        if operation == "delete" and moment == "before":
            deleted.append(key)

    saver = writer(HookedStorage(storage, watch), 1, keep=1)
    for step in (10, 20):
        save(saver, step, 1)
    assert deleted[0] == "commits/000000000010-1.json"
    assert len(deleted) > 3
    assert all(key.startswith("data/step-10/") for key in deleted[1:])


def test_damaged_commits_do_not_count_as_kept() -> None:
    storage = MemoryStorage()
    saver = writer(storage, 1, keep=5)
    for step in (10, 20, 30):
        save(saver, step, 1)
        commit = saver.wait()
        if step > 10 and commit is not None:
            storage.delete(f"{commit.prefix}/manifest.json")
    retain(storage, attempt=1, keep=1, now=NOW)
    found = newest(storage, on_skip=lambda message: None)
    assert found is not None
    assert check(found) == (10, 1)


def test_a_spared_step_is_kept_beside_the_newest() -> None:
    storage = MemoryStorage()
    saver = writer(storage, 1, keep=2)
    saver.spare = 10
    for step in (10, 20, 30, 40):
        save(saver, step, 1)
    saver.wait()
    assert _steps(storage) == [10, 30, 40]
    found = newest(storage, step=10)
    assert found is not None
    assert found.step == 10
    assert newest(storage, step=20) is None
    saver.spare = 30
    save(saver, 50, 1)
    saver.wait()
    assert _steps(storage) == [30, 40, 50]


def test_what_a_successor_may_need_is_not_for_older_attempts_to_delete() -> None:
    storage = MemoryStorage()
    saver = writer(storage, 1, keep=5)
    for step in (10, 20):
        save(saver, step, 1)
    begin_attempt(storage, attempt=2)
    retain(storage, attempt=1, keep=1, now=NOW)
    assert _steps(storage) == [10, 20]
    retain(storage, attempt=2, keep=1, now=NOW)
    assert _steps(storage) == [20]


def test_commits_off_the_line_go_first() -> None:
    storage = MemoryStorage()
    save(writer(storage, 1), 10, 1)
    save(writer(storage, 2), 20, 2)
    zombie = {key: value for key, value in storage.objects.items() if "attempts/2" not in key}
    apart = MemoryStorage()
    apart.objects = zombie
    save(writer(apart, 1), 99, 1)
    storage.objects.update(apart.objects)
    assert _steps(storage) == [10, 20, 99]
    retain(storage, attempt=2, keep=2, now=NOW)
    assert _steps(storage) == [10, 20]


@pytest.mark.parametrize(
    ("hours", "swept"), [(-1000.0, False), (0.0, False), (23.9, False), (24.1, True)]
)
def test_uncommitted_data_is_swept_after_a_day_whatever_the_clock(
    hours: float, swept: bool
) -> None:
    server = Clock()
    storage = MemoryStorage(server)
    dead = new_prefix(15, 1)
    storage.write(f"{dead}/rank-00000-000.safetensors", b"x")
    save(writer(storage, 1, clock=server), 10, 1)
    ours = Clock(NOW + hours * HOUR)
    save(writer(storage, 2, clock=ours), 20, 2)
    assert (dead in _prefixes(storage)) is not swept
    assert _steps(storage) == [10, 20], "committed data has no age"
    found = newest(storage)
    assert found is not None
    assert check(found) == (20, 2)


def test_a_save_that_is_still_written_to_is_not_swept() -> None:
    server = Clock()
    storage = MemoryStorage(server)
    slow = new_prefix(15, 1)
    storage.write(f"{slow}/rank-00000-000.safetensors", b"x")
    server.now += 20 * HOUR
    storage.write(f"{slow}/rank-00001-000.safetensors", b"x")
    retain(storage, attempt=2, keep=1, now=server.now + 10 * HOUR)
    assert slow in _prefixes(storage)
    retain(storage, attempt=2, keep=1, now=server.now + 25 * HOUR)
    assert storage.list() == []


def test_data_of_newer_attempts_and_of_strangers_is_left_alone() -> None:
    storage = MemoryStorage(Clock())
    theirs = new_prefix(15, 3)
    for key in (f"{theirs}/x", "data/notes.txt", "data/step-1/readme"):
        storage.write(key, b"x")
    retain(storage, attempt=2, keep=1, now=NOW + 100 * HOUR)
    assert len(storage.list("data/")) == 3


def test_a_failing_clean_up_does_not_fail_the_save() -> None:
    storage = MemoryStorage()

    def fail(operation: str, key: str, moment: Moment) -> None:
        if operation == "delete":
            raise OSError("stubborn")

    saver = writer(HookedStorage(storage, fail), 1, keep=1)
    for step in (10, 20):
        save(saver, step, 1)
    assert _steps(storage) == [10, 20]
    save(writer(storage, 1, keep=1), 30, 1)
    assert _steps(storage) == [30]

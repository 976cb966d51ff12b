"""Processes that die, race and outlive their successors, on real storages."""

from __future__ import annotations

import contextlib
import signal
from multiprocessing.synchronize import Barrier, Event
from threading import BrokenBarrierError
from typing import Any

import pytest

from florence.checkpoint import begin_attempt, newest
from florence.errors import TransientError
from florence.storage import Storage
from tests.child import answer_of, run_child, start_child
from tests.florence.checkpoint.faults import (
    HookedStorage,
    Moment,
    check,
    die_at,
    save,
    writer,
)
from tests.gang import _CONTEXT

STEP_20 = "000000000020"


def _save_10_then_die_at_20(storage: Storage, operation: str, key: str, moment: Moment) -> None:
    begin_attempt(storage, attempt=1)
    save(writer(storage, 1, keep=1), 10, 1)
    begin_attempt(storage, attempt=2)
    save(writer(HookedStorage(storage, die_at(operation, key, moment)), 2, keep=1), 20, 2)


@pytest.mark.parametrize(
    ("operation", "key", "moment", "survivor"),
    [
        ("write", "-001.safetensors", "during", (10, 1)),
        ("write", "manifest.json", "before", (10, 1)),
        ("write", "manifest.json", "during", (10, 1)),
        ("write_new", f"commits/{STEP_20}", "before", (10, 1)),
        ("write_new", f"commits/{STEP_20}", "during", (10, 1)),
        ("write_new", f"commits/{STEP_20}", "after", (20, 2)),
        ("delete", "commits/", "after", (20, 2)),
        ("delete", "-001.safetensors", "after", (20, 2)),
    ],
)
def test_a_kill_at_any_point_leaves_the_newest_whole_commit(
    any_storage: Storage, operation: str, key: str, moment: Moment, survivor: tuple[int, int]
) -> None:
    code = run_child(_save_10_then_die_at_20, any_storage, operation, key, moment)
    assert code == -signal.SIGKILL, "the process did not reach the point where it dies"

    # The dead attempt's successor restores what is whole and re-reaches the same step.
    restored = begin_attempt(any_storage, attempt=3)
    assert restored is not None
    assert check(restored) == survivor
    save(writer(any_storage, 3, keep=2), 20, 3)
    again = newest(any_storage)
    assert again is not None
    assert check(again) == (20, 3)


def test_nothing_whole_means_none(any_storage: Storage) -> None:
    assert newest(any_storage) is None
    assert begin_attempt(any_storage, attempt=1) is None
    assert run_child(_die_at_the_first_commit, any_storage) == -signal.SIGKILL
    assert any_storage.list("data/")
    assert newest(any_storage) is None


def _die_at_the_first_commit(storage: Storage) -> None:
    hook = die_at("write_new", "commits/", "before")
    save(writer(HookedStorage(storage, hook), 1), 10, 1)


def _save_when_both_are_ready(storage: Storage, attempt: int, ready: Barrier) -> str:
    """The prefix that was committed, or why none was."""

    def wait_before_commit(operation: str, key: str, moment: Moment) -> None:
        if operation == "write_new" and "commits/" in key and moment == "before":
            with contextlib.suppress(BrokenBarrierError):
                ready.wait(60)

    saver = writer(HookedStorage(storage, wait_before_commit), attempt)
    try:
        save(saver, 10, attempt)
    except TransientError as error:
        ready.abort()
        return str(error)
    commit = saver.wait()
    return commit.prefix if commit else "none"


@pytest.mark.parametrize("attempts", [(1, 2), (4, 4)])
def test_two_processes_that_race_for_a_step_leave_whole_commits(
    any_storage: Storage, attempts: tuple[int, int]
) -> None:
    ready = _CONTEXT.Barrier(2)
    pipes = [start_child(_save_when_both_are_ready, any_storage, n, ready)[1] for n in attempts]
    answers = [answer_of(pipe) for pipe in pipes]
    found = newest(any_storage)
    assert found is not None
    assert check(found) == (10, max(attempts))
    assert answers[1] == found.commit.prefix
    if attempts[0] == attempts[1]:
        assert answers[0] == found.commit.prefix, "both must name the one commit there is"
    else:  # the older one either committed too or noticed its successor in time
        assert answers[0].startswith("data/step-10/1-") or "took over" in answers[0]


def _commit_30_when_told(storage: Storage, at_the_brink: Event, go: Event) -> str:
    """A zombie: it found no successor, slept, and commits after its successor has begun."""

    def sleep_before_commit(operation: str, key: str, moment: Moment) -> None:
        if "000000000030" in key and operation == "write_new" and moment == "before":
            at_the_brink.set()
            go.wait(60)

    saver = writer(HookedStorage(storage, sleep_before_commit), 1, keep=1)
    save(saver, 30, 1)
    try:
        save(saver, 40, 1)
    except TransientError as error:
        return str(error)
    return "committed again"


@pytest.mark.parametrize("successor_saves", [True, False])
def test_a_zombie_never_wins_over_its_successor(
    any_storage: Storage, successor_saves: bool
) -> None:
    begin_attempt(any_storage, attempt=1)
    save(writer(any_storage, 1), 10, 1)
    at_the_brink, go = _CONTEXT.Event(), _CONTEXT.Event()
    process, pipe = start_child(_commit_30_when_told, any_storage, at_the_brink, go)
    assert at_the_brink.wait(60)

    restored = begin_attempt(any_storage, attempt=2)
    assert restored is not None
    assert check(restored) == (10, 1)
    if successor_saves:
        save(writer(any_storage, 2, keep=5), 15, 2)
    go.set()
    assert "attempt 2 took over from attempt 1" in answer_of(pipe)
    process.join()

    keys = [entry.key for entry in any_storage.list("commits/")]
    assert "commits/000000000030-1.json" in keys, "the zombie did not commit"
    assert "commits/000000000010-1.json" in keys, "the zombie deleted what its successor needs"
    for limit in (None, 2, 3):
        found = newest(any_storage, attempt_limit=limit)
        assert found is not None
        assert check(found) == ((15, 2) if successor_saves else (10, 1))
    older = newest(any_storage, attempt_limit=1)
    assert older is not None
    assert check(older) == (30, 1)


def test_a_whole_zombie_commit_beats_starting_over(any_storage: Storage) -> None:
    begin_attempt(any_storage, attempt=2)
    save(writer(any_storage, 2), 10, 2)
    any_storage.write("attempts/3.json", b'{"format":1,"attempt":3,"started":0.0,"restored":null}')
    messages: list[Any] = []
    found = newest(any_storage, on_skip=messages.append)
    assert found is not None
    assert check(found) == (10, 2)
    assert "after its successor began" in messages[0]

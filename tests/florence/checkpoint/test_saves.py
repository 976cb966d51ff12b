"""A failed save costs nothing but itself: what a training loop gets out of each kind of failure."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.checkpoint import (
    Commit,
    Fragment,
    Saves,
    State,
    SupersededError,
    begin_attempt,
    newest,
)
from florence.checkpoint.writer import CheckpointWriter
from florence.errors import ConfigurationError, FlorenceError, LostPeersError, TransientError
from florence.storage import Storage
from tests.florence.checkpoint.faults import (
    HookedStorage,
    MemoryStorage,
    Moment,
    check,
    fragments,
    rank_state,
    writer,
)
from tests.florence.checkpoint.threads import ThreadExchange, run_threads


def state_of(step: int, rank: int = 0, size: int = 1) -> State:
    own = {"step": step, "attempt": 1}
    return State(fragments(step, 1, rank, size), rank_state(step, rank), own)


class Outage:
    """Storage that answers 503 while a save of certain steps writes; each entry fails one save."""

    def __init__(self, *steps: int, error: FlorenceError | None = None) -> None:
        self.left = list(steps)
        self.error = error or TransientError(
            "s3://b: gave up (SlowDown, HTTP 503): try again later"
        )
        self.inner = MemoryStorage()

    def storage(self) -> Storage:
        return HookedStorage(self.inner, self._fail)

    def _fail(self, operation: str, key: str, moment: Moment) -> None:
        for step in self.left:
            if operation == "write" and moment == "before" and f"step-{step}/" in key:
                self.left.remove(step)
                raise self.error

    def commits(self) -> list[int]:
        return [int(entry.key[8:20]) for entry in self.inner.list("commits/")]


def train(
    saves: Saves, *, steps: int, every: int, stop_at: int | None = None, look: bool = True
) -> int:
    """What a training loop does; the step that it ends after."""
    for done in range(1, steps + 1):
        stopping = done == stop_at
        if done == steps or stopping:
            saves.finish(done, lambda done=done: state_of(done))
            return done
        if done % every == 0:
            saves.start(done, lambda done=done: state_of(done))
        elif look:
            saves.look()
    raise AssertionError("the last step ends the loop")


def test_one_failed_save_costs_one_checkpoint() -> None:
    outage, failures = Outage(8), list[str]()
    saves = Saves(writer(outage.storage(), 1, keep=9), on_failure=failures.append)
    assert train(saves, steps=40, every=4, stop_at=22) == 22
    assert outage.commits() == [4, 12, 16, 20, 22]
    assert len(failures) == 1
    assert "step 8 failed, 1 in a row of at most 3: s3://b: gave up" in failures[0]
    found = newest(outage.inner)
    assert found is not None
    assert check(found) == (22, 1)


def test_failures_in_a_row_end_the_training_and_a_success_between_forgives() -> None:
    outage = Outage(4, 8, 16, 20, 24)
    saves = Saves(writer(outage.storage(), 1), limit=3)
    with pytest.raises(TransientError, match="3 checkpoints in a row failed, the last one: s3://b"):
        train(saves, steps=40, every=4)
    assert outage.commits() == [12]


def test_what_never_heals_keeps_its_exit_code() -> None:
    outage = Outage(1, 2, error=ConfigurationError("s3://b: refused (AccessDenied)"))
    saves = Saves(writer(outage.storage(), 1), limit=2)
    with pytest.raises(ConfigurationError, match=r"2 checkpoints in a row failed.*AccessDenied"):
        train(saves, steps=9, every=1)


@pytest.mark.parametrize("failing", [(12,), (12, 13), (13, 13), (8, 12, 13, 13)])
def test_stopping_tries_anew_whatever_failed_before(failing: tuple[int, ...]) -> None:
    outage = Outage(*failing)
    saves = Saves(writer(outage.storage(), 1), limit=3)
    assert train(saves, steps=40, every=4, stop_at=13, look=False) == 13
    assert outage.left == []
    assert saves.committed is not None
    assert saves.committed.step == outage.commits()[-1] == 13


def test_stopping_gives_up_in_the_end() -> None:
    outage = Outage(13, 13, 13)
    with pytest.raises(TransientError, match="3 checkpoints in a row failed"):
        train(Saves(writer(outage.storage(), 1), limit=3), steps=40, every=4, stop_at=13)
    assert outage.commits() == [4, 8, 12]


def test_a_save_of_the_last_step_that_is_under_way_is_not_made_twice() -> None:
    outage, taken = Outage(), list[int]()
    saves = Saves(writer(outage.storage(), 1))

    def take() -> State:
        taken.append(8)
        return state_of(8)

    saves.start(8, take)
    commit = saves.finish(8, take)
    assert (taken, commit.step) == ([8], 8)
    assert saves.finish(8, take) == commit
    assert taken == [8]


def test_looking_never_waits_and_tells_each_commit_once() -> None:
    go, told = threading.Event(), list[Commit]()

    def hold(operation: str, key: str, moment: Moment) -> None:
        if operation == "write" and moment == "before":
            assert go.wait(30)

    saver = writer(HookedStorage(MemoryStorage(), hold), 1)
    saves = Saves(saver, on_commit=told.append)
    saves.look()
    saves.start(1, lambda: state_of(1))
    saves.look()
    assert told == []
    assert saves.committed is None
    go.set()
    while saver.in_flight:
        saver._thread.join()  # type: ignore[union-attr]
    saves.look()
    saves.look()
    assert [commit.step for commit in told] == [1]


def raises_at_once(storage: Storage, take: Callable[[], State], kind: type[FlorenceError]) -> None:
    saves = Saves(writer(storage, 1), on_failure=pytest.fail)
    saves.start(1, take)
    with pytest.raises(kind):
        saves.finish(2, take)


def test_what_cannot_heal_is_raised_at_once() -> None:
    storage = MemoryStorage()
    half = State([Fragment("w", (2,), 0, fragments(1, 1)[0].values[:1])], {}, {})
    raises_at_once(storage, lambda: half, FlorenceError)
    raises_at_once(Outage(1, error=LostPeersError("gone")).storage(), _first, LostPeersError)
    begin_attempt(storage, attempt=1)
    begin_attempt(storage, attempt=2)
    raises_at_once(storage, _first, SupersededError)


def _first() -> State:
    return state_of(1)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 2)), max_size=8),
    st.integers(1, 4),
    st.lists(st.booleans(), min_size=36, max_size=36),
)
def test_all_ranks_decide_alike_whoever_fails_and_whenever_they_look(
    size: int, failing: list[tuple[int, int]], limit: int, looks: list[bool]
) -> None:
    storage = MemoryStorage()

    def on(exchange: ThreadExchange) -> str:
        left = [step for step, rank in failing if rank == exchange.rank]

        def fail(operation: str, key: str, moment: Moment) -> None:
            for step in left:
                if operation == "write" and moment == "before" and f"step-{step}/" in key:
                    left.remove(step)
                    raise TransientError(f"no space for {step}")

        saver = CheckpointWriter(
            HookedStorage(storage, fail), attempt=1, world=exchange, exchange=exchange, keep=99
        )
        saves = Saves(saver, limit=limit, on_failure=lambda message: None)
        return train_all(saves, exchange, looks[exchange.rank :: 3])

    outcomes = run_threads(on, size)
    assert len(set(map(str, outcomes))) == 1, outcomes
    found = newest(storage)
    if outcomes[0] == "done":
        assert found is not None
        assert check(found, size) == (12, 1)
    # Only a row of failures as long as the limit may end a training.
    failed_steps = {step for step, rank in failing if rank < size}
    if not any(all(s + i in failed_steps for i in range(limit)) for s in range(1, 12)):
        retried = [rank for step, rank in failing if step == 12 and rank < size]
        assert outcomes[0] == "done" or len(retried) >= limit


def train_all(saves: Saves, exchange: ThreadExchange, looks: list[bool]) -> str:
    for done in range(1, 13):
        if looks[done - 1]:
            saves.look()
        if done < 12:
            saves.start(done, lambda done=done: state_of(done, exchange.rank, exchange.size))
    try:
        saves.finish(12, lambda: state_of(12, exchange.rank, exchange.size))
    except TransientError as error:
        return str(error)
    return "done"

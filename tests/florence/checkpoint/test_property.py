"""Any history of crashes, damage-free or with zombies, leaves the newest finished save readable."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from florence.checkpoint import Checkpoint, begin_attempt, newest
from florence.checkpoint.lineage import successor_of
from florence.checkpoint.manifest import CommitId
from florence.errors import TransientError
from florence.storage import Entry, Storage
from tests.florence.checkpoint.faults import (
    HookedStorage,
    MemoryStorage,
    Moment,
    check,
    save,
    writer,
)


class DeadError(Exception):
    """The simulated process is dead; nothing it does reaches the storage any more."""


@dataclass(frozen=True)
class Life:
    """One attempt: the steps it saves after the restored one, and the storage operation that kills
    it, before or after it took effect. Amid operation ``zombie_at``, attempt ``zombie`` saves."""

    saves: int
    dies_at: int
    moment: Moment
    keep: int
    zombie: int
    zombie_at: int


LIVES = st.lists(
    st.builds(
        Life,
        saves=st.integers(1, 3),
        dies_at=st.integers(0, 90),
        moment=st.sampled_from(["before", "after"]),
        keep=st.integers(1, 3),
        zombie=st.integers(0, 4),
        zombie_at=st.integers(0, 90),
    ),
    min_size=1,
    max_size=5,
)


class StaleStorage(HookedStorage):
    """What a zombie sees that looked for a successor before there was one."""

    def list(self, prefix: str = "") -> list[Entry]:
        return [entry for entry in super().list(prefix) if not entry.key.startswith("attempts/")]


@dataclass
class History:
    """Lives one attempt after the other, and what the newest commit may be."""

    storage: MemoryStorage = field(default_factory=MemoryStorage)
    by_zombies: set[CommitId] = field(default_factory=set)
    fair: set[CommitId] = field(default_factory=set)  # theirs from before a successor was recorded
    last: CommitId | None = None
    in_doubt: CommitId | None = None

    def live(self, attempt: int, life: Life) -> None:
        operations = 0
        dead = False

        def hook(operation: str, key: str, moment: Moment) -> None:
            nonlocal operations, dead
            if dead:
                raise DeadError
            if moment == "before":
                operations += 1
                if operations == life.zombie_at and life.zombie < attempt:
                    self.zombie_saves(life.zombie)
            if operations == life.dies_at and moment == life.moment:
                dead = True
                raise DeadError

        try:
            self.train(HookedStorage(self.storage, hook), attempt, life)
        except (DeadError, TransientError):
            assert dead, "a save failed without a crash"
        self.check_newest()

    def train(self, storage: Storage, attempt: int, life: Life) -> None:
        restored = begin_attempt(storage, attempt=attempt, on_skip=lambda message: None)
        self.check_restored(restored)
        saver = writer(storage, attempt, keep=life.keep)
        step = restored.step if restored else 0
        for _ in range(life.saves):
            step += 10
            self.in_doubt = CommitId(step, attempt)
            save(saver, step, attempt)
            self.last, self.in_doubt = self.in_doubt, None

    def zombie_saves(self, attempt: int) -> None:
        """An attempt thought dead commits something newer than all there is."""
        step = max((*self.steps(), 0)) + 5
        stale = StaleStorage(self.storage, lambda operation, key, moment: None)
        overtaken = successor_of(self.storage, attempt) is not None
        save(writer(stale, attempt, keep=10**6), step, attempt)
        self.by_zombies.add(CommitId(step, attempt))
        if not overtaken:
            self.fair.add(CommitId(step, attempt))

    def steps(self) -> list[int]:
        return [int(key[8:20]) for key in self.storage.objects if key.startswith("commits/")]

    def check_restored(self, restored: Checkpoint | None) -> None:
        self.check_one_of(restored)
        self.last = restored.id if restored else None
        self.in_doubt = None

    def check_newest(self) -> None:
        self.check_one_of(newest(self.storage, on_skip=lambda message: None))

    def check_one_of(self, found: Checkpoint | None) -> None:
        """The last finished save, a crashed one whose commit had landed, or as new and as whole."""
        if found is None:
            assert self.last is None
            return
        assert CommitId(*check(found)) == found.id
        if found.id not in (self.last, self.in_doubt):
            assert found.id in self.by_zombies
            assert found.id in self.fair or self.last is None


@settings(max_examples=150, deadline=None)
@given(LIVES)
def test_without_zombies_the_newest_finished_save_is_found(lives: list[Life]) -> None:
    history = History()
    for attempt, life in enumerate(lives, start=1):
        alone = Life(life.saves, life.dies_at, life.moment, life.keep, zombie=99, zombie_at=0)
        history.live(attempt, alone)
    assert not history.by_zombies


@settings(max_examples=150, deadline=None)
@given(LIVES)
def test_with_zombies_no_history_loses_or_mixes_a_save(lives: list[Life]) -> None:
    history = History()
    for attempt, life in enumerate(lives, start=1):
        history.live(attempt, life)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.sampled_from(["before", "after"]), st.integers(2, 60))
def test_a_zombie_after_the_record_never_wins(dies_at: int, moment: Moment, zombie_at: int) -> None:
    history = History()
    history.live(1, Life(2, 10**6, "before", 2, zombie=99, zombie_at=0))
    begin_attempt(history.storage, attempt=2)
    history.zombie_saves(1)
    history.live(2, Life(2, dies_at, moment, 2, zombie=1, zombie_at=zombie_at))
    found = newest(history.storage, on_skip=lambda message: None)
    assert found is not None
    assert found.id not in history.by_zombies

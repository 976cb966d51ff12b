"""When a training loop saves, and what a save that failed costs: nothing but itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from florence.checkpoint.fragment import Fragment
from florence.checkpoint.lineage import SupersededError
from florence.checkpoint.manifest import Commit
from florence.checkpoint.writer import CheckpointWriter
from florence.errors import (
    ConfigurationError,
    FlorenceError,
    LostPeersError,
    NoSpaceError,
    TransientError,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What one rank hands to a save; the tensors may be views of live memory."""

    fragments: Iterable[Fragment]
    """This rank's share of the global state."""
    rank_state: Mapping[str, Tensor]
    """What only this rank needs again."""
    metadata: Mapping[str, Any]
    """JSON values that describe the whole."""


class Saves:
    """The saves of one attempt: in the background at intervals, and one that must hold at the end.

    A save that fails is told to ``on_failure`` and forgotten; training goes on, and the next one is
    made at the next interval. After ``limit`` failures in a row :meth:`start` and :meth:`finish`
    raise the last one. What cannot heal is raised at once: a newer attempt took over, a rank is
    lost, or the ranks' pieces do not make a whole.

    :meth:`start` and :meth:`finish` are called by all ranks at the same steps and decide alike;
    :meth:`look` may be called by any rank at any time.
    """

    def __init__(
        self,
        writer: CheckpointWriter,
        *,
        limit: int = 3,
        on_commit: Callable[[Commit], None] = lambda commit: None,
        on_failure: Callable[[str], None] = _log.warning,
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit {limit}: at least one save has to be allowed to fail")
        self._writer = writer
        self._limit = limit
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._saving: int | None = None
        self._committed: Commit | None = None
        self._failed_in_a_row = 0
        self._last: FlorenceError | None = None

    @property
    def committed(self) -> Commit | None:
        """The newest commit that is known to be stored."""
        return self._committed

    def start(self, step: int, take: Callable[[], State]) -> None:
        """Save the state after ``step`` optimizer steps in the background.

        Waits for the save before it first. ``take`` is called once, then its tensors are copied.
        Raises ``TransientError`` or ``ConfigurationError`` after ``limit`` failures in a row.
        """
        self._settle()
        self._give_up_if_hopeless()
        self._begin(step, take())

    def finish(self, step: int, take: Callable[[], State]) -> Commit:
        """Have the state after ``step`` steps committed before returning.

        A save of this step that is under way is waited for. If it, or an earlier one, failed, the
        state is saved anew, up to ``limit`` times whatever failed before. ``take`` is called for
        every try. Raises like :meth:`start`.
        """
        self._settle()
        self._failed_in_a_row = 0
        while self._committed is None or self._committed.step != step:
            self._give_up_if_hopeless()
            self._begin(step, take())
            self._settle()
        return self._committed

    def look(self) -> None:
        """Tell about the save in flight if it has ended meanwhile; never waits."""
        if self._saving is not None and not self._writer.in_flight:
            self._settle()

    def _begin(self, step: int, state: State) -> None:
        self._writer.save(step, state.fragments, state.rank_state, state.metadata)
        self._saving = step

    def _settle(self) -> None:
        """Wait for the save in flight and note how it ended."""
        if self._saving is None:
            return
        step, self._saving = self._saving, None
        try:
            commit = self._writer.wait()
        except FlorenceError as error:
            self._note_failure(step, error)
            return
        assert commit is not None  # there was a save, and it did not fail
        self._failed_in_a_row, self._last, self._committed = 0, None, commit
        self._on_commit(commit)

    def _note_failure(self, step: int, error: FlorenceError) -> None:
        heals = isinstance(error, TransientError | ConfigurationError)
        if not heals or isinstance(error, SupersededError | LostPeersError):
            raise error
        self._failed_in_a_row += 1
        self._last = error
        self._on_failure(
            f"the checkpoint of step {step} failed, {self._failed_in_a_row} in a row "
            f"of at most {self._limit}: {error}"
        )

    def _give_up_if_hopeless(self) -> None:
        if self._last is None or self._failed_in_a_row < self._limit:
            return
        kinds = (ConfigurationError, NoSpaceError, TransientError)
        kind = next(kind for kind in kinds if isinstance(self._last, kind))
        raise kind(
            f"{self._failed_in_a_row} checkpoints in a row failed, the last one: {self._last}"
        ) from self._last

"""The signals by which a user, a closed terminal or the system asks a run to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Notes them while a block runs, and does nothing else: whoever works in the block looks.

    A signal that was ignored before, as SIGHUP is under ``nohup``, stays ignored. Handlers can
    only be set in the main thread; elsewhere nothing is noted.
    """

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the run is to stop."""
        return bool(self.received)

    @property
    def at_once(self) -> bool:
        """Whether the user has lost patience: an interrupt after another request."""
        return signal.SIGINT in self.received[1:]

    @property
    def first(self) -> signal.Signals | None:
        """What asked first."""
        return self.received[0] if self.received else None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(signal.Signals(number))

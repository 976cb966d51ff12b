"""Notice that the process that started this one is gone, however it ended.

A process that is killed cannot tell its children, so each asks for its parent again and again:
that works on every system, and in whatever session or group the child is.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping

PARENT = "FLORENCE_PARENT_PID"
"""Environment variable: the process that starts this one and that it must not outlive."""

_SECONDS_BETWEEN_LOOKS = 0.5


def watch_parent(
    on_gone: Callable[[], None], environment: Mapping[str, str] = os.environ
) -> threading.Thread | None:
    """Call ``on_gone`` from a thread once the parent that the environment names is gone.

    Nothing is watched where it names none.
    """
    parent = environment.get(PARENT, "")
    if not parent.isdigit():
        return None

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        on_gone()

    thread = threading.Thread(target=watch, name="parent", daemon=True)
    thread.start()
    return thread

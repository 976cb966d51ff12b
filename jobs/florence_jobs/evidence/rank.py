"""In a rank: write the stacks of all threads to a file whenever a signal asks for them.

faulthandler writes them from the signal itself, so a rank answers whatever it waits for, also
inside NCCL or with the GIL held.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from florence.errors import StoppedError

FOLDER = "FLORENCE_EVIDENCE_FOLDER"
"""Environment variable: the folder where ranks write what whoever started them may ask for."""
SIGNAL = signal.SIGUSR1
_HEAD = re.compile(r"rank (\d+), process (\d+), main thread (0x[0-9a-f]+)\n")
_ENDED_WELL = (0, StoppedError.exit_code)


@dataclass(frozen=True, slots=True)
class RankFile:
    """The file of a rank that can be asked: it is there while the signal is handled."""

    path: Path
    rank: int
    process: int
    main_thread: int


class Stacks:
    """This rank's answer to the signal."""

    def __init__(self, file: TextIO, path: Path | None) -> None:
        self._file = file
        self._path = path

    def close(self, code: int) -> None:
        """Take the file away where the rank ended well: those of the others stay behind."""
        if self._path is not None and code in _ENDED_WELL:
            self._path.unlink(missing_ok=True)


def offer_stacks(environment: Mapping[str, str] = os.environ) -> Stacks:
    """Answer the signal from now on: into a file of the folder, or else with the log."""
    folder, rank = environment.get(FOLDER), int(environment.get("RANK", "0"))
    if folder:
        with contextlib.suppress(OSError):  # a full disk must not end a stage before it starts
            return _offered(Path(folder), rank)
    faulthandler.register(SIGNAL, file=sys.stderr, all_threads=True)
    return Stacks(sys.stderr, None)


def _offered(folder: Path, rank: int) -> Stacks:
    path = folder / f"rank-{rank}"
    fresh = folder / f".rank-{rank}"
    # Open to the end: faulthandler writes to it for as long as this process lives.
    file = fresh.open("w")
    file.write(f"rank {rank}, process {os.getpid()}, main thread {threading.get_ident():#x}\n")
    file.flush()
    faulthandler.register(SIGNAL, file=file, all_threads=True)
    fresh.rename(path)  # from now on it may be asked: the signal would have ended it before
    return Stacks(file, path)


def rank_files(folder: Path) -> list[RankFile]:
    """The ranks of this pod or machine that can be asked, or that did not end well."""
    found = []
    for path in folder.glob("rank-*"):
        with contextlib.suppress(OSError):  # it has just ended well
            head = _HEAD.match(path.read_text(errors="replace"))
            if head:
                found.append(RankFile(path, int(head[1]), int(head[2]), int(head[3], 16)))
    return sorted(found, key=lambda each: each.rank)

"""Which ranks wait in a collective and which do not, from the stacks that faulthandler writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from florence_operator.api.ranks import LONGEST_PLACE, RankGroup, merged, spans_of

_THREAD = re.compile(r"(?P<current>Current t|T)hread (?P<ident>0x[0-9a-fA-F]+)\b.*:$")
_FRAME = re.compile(r'\s+File "(?P<path>.*)", line (?P<line>\d+) in (?P<function>.*)$')
_BOTTOM = re.compile(r"(?:.* in (?:<module>|_run_module_as_main)|\s+\.\.\.)$")
"""How a whole stack ends: where the program began, or where faulthandler stops counting."""
_OURS = re.compile(r"(?:^|.*/)((?:florence|florence_jobs)/(?:\w+/)*\w+\.py)$")
_STANDARD = re.compile(r".*/python3[.\d]*/[^-]*$|<")
"""Python's own modules, where no packages lie between."""
_PACKAGES = re.compile(r".*/(?:site|dist)-packages/(.*)$")
_COLLECTIVES = ("torch/distributed/distributed_c10d.py", "torch/distributed/nn/functional.py")
_WRAPPERS = ("torch/distributed/c10d_logger.py",)
_NO_PLACE = ("florence/distributed/",)
"""What only passes a collective on: who called it says more."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a stack."""

    path: str
    line: int
    function: str

    @property
    def is_ours(self) -> bool:
        """Whether it is of this project."""
        return self.short.startswith(("florence/", "florence_jobs/"))

    @property
    def short(self) -> str:
        """The path without what comes before the package."""
        found = _PACKAGES.match(self.path) or _OURS.match(self.path)
        return found[1] if found else self.path

    def __str__(self) -> str:
        told = f"{self.short}:{self.line} {self.function}"
        return told if len(told) <= LONGEST_PLACE else f"…{told[1 - LONGEST_PLACE :]}"


@dataclass(frozen=True, slots=True)
class Thread:
    """The stack of one thread, the innermost frame first."""

    ident: int
    current: bool
    frames: tuple[Frame, ...]


def threads_of(text: str) -> list[Thread]:
    """The threads of a process as faulthandler wrote them; lines that are none are passed over."""
    found: list[tuple[int, bool, list[Frame]]] = []
    for line in text.splitlines():
        if head := _THREAD.match(line):
            found.append((int(head["ident"], 16), head["current"] != "T", []))
        elif found and (frame := _FRAME.match(line)):
            found[-1][2].append(Frame(frame["path"], int(frame["line"]), frame["function"]))
    return [Thread(ident, current, tuple(frames)) for ident, current, frames in found]


def main_thread(text: str, ident: int | None = None) -> Thread | None:
    """The thread that trains: the one of that number, or else the one that began the process."""
    threads = threads_of(text)
    named = [thread for thread in threads if thread.ident == ident]
    return next(iter([*named, *reversed(threads)]), None)


def is_whole(text: str, ident: int) -> bool:
    """Whether faulthandler has written all of the main thread, which comes last."""
    lines = text.rstrip("\n").splitlines()
    ended = text.endswith("\n") and bool(lines) and _BOTTOM.match(lines[-1]) is not None
    return ended and any(thread.ident == ident for thread in threads_of(text))


def where(frames: Sequence[Frame]) -> tuple[str | None, str | None]:
    """The collective that a stack waits in, if it does, and the line of code that it is in."""
    inner = [frame for frame in frames if not frame.short.startswith(_WRAPPERS)]
    waits = [f.function for f in takewhile(lambda f: f.short in _COLLECTIVES, inner)]
    # The outermost is what was called: all_gather_object is made of others.
    collective = next((name for name in reversed(waits) if not name.startswith("_")), None)
    ours = [frame for frame in inner if frame.is_ours]
    callers = [frame for frame in ours if not frame.short.startswith(_NO_PLACE)]
    others = [frame for frame in inner[len(waits) :] if not _STANDARD.match(frame.path)]
    best = [*(callers if collective else ours), *ours, *others, *inner]
    place = next(iter(best), None)
    return collective, None if place is None else str(place)


def blame(stacks: Mapping[int, Thread | None]) -> tuple[RankGroup, ...]:
    """Where ranks are, given the main thread of each; None for one that gave no stacks."""
    at: dict[tuple[str | None, str | None], list[int]] = {}
    for rank, thread in stacks.items():
        at.setdefault(where(thread.frames) if thread else (None, None), []).append(rank)
    return merged(
        RankGroup(ranks=spans_of(ranks), collective=collective, place=place)
        for (collective, place), ranks in at.items()
    )

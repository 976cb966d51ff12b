"""The text file that is kept of a worker's ranks: written for people, and read again.

The newest log lines come last: whatever they look like, what is read stands before them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from florence_jobs.evidence.stacks import Thread, blame, main_thread
from florence_operator.api.ranks import RankGroup, sentence

NAME = "worker-{index}.evidence.txt"
DUMP_NAME = "worker-{index}.nccl-rank-{rank}.pickle"
_KEY = re.compile(
    r"(?:.*/)?(?:attempt-|a)(\d+)/worker-(\d+)\.(evidence\.txt|nccl-rank-\d+\.pickle)$"
)
_DUMP = re.compile(r"worker-\d+\.(nccl-rank-\d+)\.pickle$")
_STACKS = re.compile(r"== stacks of rank (\d+), process (\d+), main thread (0x[0-9a-f]+)$")
_TAKEN = re.compile(r"taken (\S+),", re.MULTILINE)
_NONE = "(none)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStacks:
    """What one rank answered."""

    rank: int
    process: int
    main_thread: int
    text: str = ""
    """What faulthandler wrote; empty where it did not answer."""
    state: str = ""
    """What the system says of a process that did not answer."""

    @property
    def thread(self) -> Thread | None:
        """The thread that trains."""
        return main_thread(self.text, self.main_thread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a worker whose ranks did not stop as asked."""

    who: str
    """The worker, in words."""
    taken: str
    waited: float
    """Seconds since it was asked to stop."""
    ranks: Sequence[RankStacks]
    gpu_errors: Sequence[str] = ()
    log_lines: Sequence[str] = field(default=())

    @property
    def groups(self) -> tuple[RankGroup, ...]:
        """Which ranks wait in a collective and which do not."""
        return groups_of(self.ranks)

    def text(self) -> str:
        """The file."""
        parts = [
            f"{self.who}\ntaken {self.taken}, {self.waited:.0f} s after it was asked to stop\n",
            f"== ranks\n{sentence(self.groups)}\n",
            *(_section(each) for each in self.ranks),
            "\n".join(["== GPU errors (Xid)", *(self.gpu_errors or [_NONE]), ""]),
            "\n".join(["== newest log lines", *(self.log_lines or [_NONE]), ""]),
        ]
        return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class Key:
    """What the name of a kept file says."""

    attempt: int
    worker: int
    is_text: bool


def key_of(name: str) -> Key | None:
    """Whose evidence a key of the artifacts is; None for one that is none."""
    found = _KEY.match(name)
    return Key(int(found[1]), int(found[2]), found[3].endswith("txt")) if found else None


def file_name(name: str) -> str:
    """What a kept file is called in a folder: dumps of all workers as torchfrtrace finds them."""
    last = name.rpartition("/")[2]
    found = _DUMP.match(last)
    return found[1] if found else last


def ranks_of(text: str) -> list[RankStacks]:
    """The ranks of a kept file."""
    found: list[RankStacks] = []
    body: list[str] = []
    for line in [*text.splitlines(), "== end"]:
        if not line.startswith("== "):
            body.append(line)
            continue
        if found:
            found[-1] = _with_body(found[-1], "\n".join(body).strip("\n"))
        body = []
        head = _STACKS.match(line)
        if head:
            number, process, ident = int(head[1]), int(head[2]), int(head[3], 16)
            found.append(RankStacks(rank=number, process=process, main_thread=ident))
        elif found:
            break
    return found


def taken_at(text: str) -> str | None:
    """When a kept file was written."""
    found = _TAKEN.search(text)
    return found[1] if found else None


def groups_of(ranks: Sequence[RankStacks]) -> tuple[RankGroup, ...]:
    """Which ranks wait in a collective and which do not."""
    stacks: Mapping[int, Thread | None] = {each.rank: each.thread for each in ranks}
    return blame(stacks)


def stacks_text(each: RankStacks) -> str:
    """What there is of one rank, for people."""
    return each.text.strip("\n") if each.text else f"(no stacks: {each.state})"


def _with_body(each: RankStacks, body: str) -> RankStacks:
    answered = not body.startswith("(no stacks: ")
    text = f"{body}\n" if answered else ""
    state = "" if answered else body.removeprefix("(no stacks: ").removesuffix(")")
    return RankStacks(
        rank=each.rank,
        process=each.process,
        main_thread=each.main_thread,
        text=text,
        state=state,
    )


def _section(each: RankStacks) -> str:
    head = f"rank {each.rank}, process {each.process}, main thread {each.main_thread:#x}"
    return f"== stacks of {head}\n{stacks_text(each)}\n"

"""Show what was kept of ranks that did not stop: of a cluster's jobs and of this machine's."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence.errors import ConfigurationError
from florence_operator.api.ranks import sentence, spans_of
from florencectl.cluster.artifacts import copy_file
from florencectl.cluster.errors import NotFoundError
from florencectl.output import Format, byte_size, note, print_list

if TYPE_CHECKING:
    from florence.storage import Entry, Storage
    from florence_jobs.evidence.report import RankStacks

_AT_ONCE = 8
"""Files that are read side by side."""
_COLUMNS = ["worker", "ranks", "dumps", "size", "taken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which evidence the user asked for, and what to do with it."""

    stage: str | None = None
    attempt: int | None = None
    worker: int | None = None
    rank: int | None = None
    directory: Path | None = None


@dataclass(frozen=True, slots=True)
class StageLogs:
    """The files of a stage's logs: there is evidence among them, or not."""

    stage: str
    storage: Storage
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Kept:
    """What one worker of an attempt left."""

    worker: int
    text: Entry | None
    dumps: tuple[Entry, ...]

    @property
    def files(self) -> tuple[Entry, ...]:
        """All of its files."""
        return (*((self.text,) if self.text else ()), *self.dumps)


def show(name: str, logs: Sequence[StageLogs], wanted: Wanted) -> None:
    """Print or fetch the evidence that is wanted.

    Raises:
        NotFoundError: there is none such; the message says which there is.
    """
    chosen, attempt = choose(name, logs, wanted.stage, wanted.attempt)
    kept = kept_of(chosen, attempt)
    if wanted.directory is not None:
        _fetch(chosen.storage, kept, wanted.directory)
    elif wanted.worker is not None:
        one = next((each for each in kept if each.worker == wanted.worker and each.text), None)
        if one is None or one.text is None:
            known = ", ".join(str(each.worker) for each in kept)
            raise NotFoundError(f"worker {wanted.worker} left no evidence; there: {known}")
        print(_text(chosen.storage, one.text), end="")
    elif wanted.rank is not None:
        print(_stacks_of_rank(_texts(chosen.storage, kept), wanted.rank))
    else:
        _list(chosen, attempt, kept, logs)


def choose(
    name: str, logs: Sequence[StageLogs], stage: str | None, attempt: int | None
) -> tuple[StageLogs, int]:
    """The stage and attempt that are meant: as asked for, or else the newest that left some.

    Raises:
        NotFoundError: they left none.
    """
    found = {
        (each.stage, number): (modified, each)
        for each in logs
        for number, modified in _attempts(each).items()
    }
    meant = [
        (modified, key, each)
        for key, (modified, each) in found.items()
        if stage in (None, key[0]) and attempt in (None, key[1])
    ]
    if not meant:
        known = ", ".join(f"stage '{s}', attempt {n}" for s, n in sorted(found))
        none = f"job '{name}' left no evidence: none of its ranks was killed while it was stopped"
        raise NotFoundError(f"no evidence of that; there is: {known}" if known else none)
    _, (_, number), each = max(meant, key=lambda item: (item[0], item[1][1]))
    return each, number


def kept_of(logs: StageLogs, attempt: int) -> list[Kept]:
    """What the workers of an attempt left, by worker."""
    from florence_jobs.evidence.report import key_of

    texts: dict[int, Entry] = {}
    dumps: dict[int, list[Entry]] = {}
    for entry in logs.entries:
        key = key_of(entry.key)
        if key and key.attempt == attempt:
            if key.is_text:
                texts[key.worker] = entry
            else:
                dumps.setdefault(key.worker, []).append(entry)
    workers = sorted(texts.keys() | dumps.keys())
    return [Kept(worker, texts.get(worker), tuple(dumps.get(worker, ()))) for worker in workers]


def _attempts(logs: StageLogs) -> dict[int, float]:
    """When each attempt left its newest evidence."""
    from florence_jobs.evidence.report import key_of

    found: dict[int, float] = {}
    for entry in logs.entries:
        key = key_of(entry.key)
        if key:
            found[key.attempt] = max(entry.modified, found.get(key.attempt, 0.0))
    return found


def _list(chosen: StageLogs, attempt: int, kept: Sequence[Kept], logs: Sequence[StageLogs]) -> None:
    from florence_jobs.evidence.report import groups_of, ranks_of, taken_at

    texts = _texts(chosen.storage, kept)
    ranks = {worker: ranks_of(text) for worker, text in texts.items()}
    told = sentence(groups_of([each for found in ranks.values() for each in found]))
    print(f"{chosen.stage}, attempt {attempt}: {told or 'no stacks were kept'}")
    rows: list[dict[str, Any]] = [
        {
            "worker": each.worker,
            "ranks": spans_of(r.rank for r in ranks.get(each.worker, ())),
            "dumps": len(each.dumps),
            "size": byte_size(sum(file.size for file in each.files)),
            "taken": taken_at(texts.get(each.worker, "")),
        }
        for each in kept
    ]
    print_list(rows, _COLUMNS, Format.TABLE, name="worker")
    others = [
        f"{each.stage} {number}"
        for each in logs
        for number in sorted(_attempts(each))
        if (each.stage, number) != (chosen.stage, attempt)
    ]
    if others:
        note(f"other attempts that left evidence: {', '.join(others)}")


def _stacks_of_rank(texts: dict[int, str], rank: int) -> str:
    from florence_jobs.evidence.report import ranks_of, stacks_text

    ranks: list[RankStacks] = [each for text in texts.values() for each in ranks_of(text)]
    found = next((each for each in ranks if each.rank == rank), None)
    if found is None:
        known = spans_of(each.rank for each in ranks)
        raise NotFoundError(f"rank {rank} left no evidence; there: {known or 'none'}")
    return stacks_text(found)


def _texts(storage: Storage, kept: Sequence[Kept]) -> dict[int, str]:
    there = [(each.worker, each.text) for each in kept if each.text]
    with ThreadPoolExecutor(_AT_ONCE) as readers:
        texts = readers.map(lambda item: _text(storage, item[1]), there)
        return {worker: text for (worker, _), text in zip(there, texts, strict=True)}


def _text(storage: Storage, entry: Entry) -> str:
    return storage.read(entry.key).decode("utf-8", errors="replace")


def _fetch(storage: Storage, kept: Sequence[Kept], directory: Path) -> None:
    from florence_jobs.evidence.report import file_name

    if directory.exists() and not directory.is_dir():
        raise ConfigurationError(f"{directory} is not a folder: give -o the name of one")
    files = [entry for each in kept for entry in each.files]
    for entry in files:
        target = directory / file_name(entry.key)
        copy_file(storage, entry, target)
        print(target, flush=True)
    note(f"{len(files)} files, {byte_size(sum(entry.size for entry in files))}")

"""What of a bucket no job needs any more: a decision, made of listings only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from florencectl.storage.layout import (
    Folder,
    Kind,
    by_folder,
    is_commit,
    owner_of,
    saves_without_commit,
)

if TYPE_CHECKING:
    from florence.storage import Entry


@dataclass(frozen=True, slots=True)
class Jobs:
    """The jobs that there are.

    Attributes:
        folders: ``<namespace>/<name>-<uid8>`` of each.
        names: ``<namespace>/<name>`` of jobs that were named without a uid.
        texts: their documents, for what they say of other jobs' folders.
        namespaces: those that the cluster has; None where it is not asked.
    """

    folders: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    texts: Sequence[str] = ()
    namespaces: frozenset[str] | None = None

    def keep(self, folder: Folder) -> str | None:
        """Why a folder is not to be touched; None when no job has to do with it."""
        if folder.path in self.folders or f"{folder.namespace}/{folder.job}" in self.names:
            return "the job exists"
        if self.namespaces is not None and folder.namespace not in self.namespaces:
            return f"the cluster has no such namespace; -n {folder.namespace} says it had"
        if any(f"/{folder.path}" in text for text in self.texts):
            return "a job that exists names it"
        return None


@dataclass(frozen=True, slots=True)
class Part:
    """Something to delete of one job's folder."""

    folder: Folder
    what: str
    entries: tuple[Entry, ...]
    """In an order in which dying is harmless: commits go before what they name."""

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(entry.size for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Decision:
    """What goes, and which folders stay as they are, with the reason."""

    parts: tuple[Part, ...]
    kept: tuple[tuple[Folder, str], ...]


DEAD, CHECKPOINTS, REST = "saves without a commit", "checkpoints", "models, logs and results"


def decide(
    entries: Iterable[Entry], jobs: Jobs, *, now: float, older_than: float, everything: bool
) -> Decision:
    """What of the objects below ``artifacts.uri`` may go.

    Nothing of a job that exists, nothing that was written to in the last seconds, and nothing that
    is not in a folder of a cluster's job. Of a job that is gone: saves and models of attempts
    without a commit, and checkpoints, from which nothing can go on any more; with ``everything``
    its models, logs and results too.

    Args:
        entries: listed before ``jobs``: what is found then is of a job that exists, or is gone.
        now: unix seconds.
        older_than: seconds since a folder's last write before any of it goes.
        everything: whether results go as well.
    """
    parts: list[Part] = []
    kept: list[tuple[Folder, str]] = []
    for folder, objects in sorted(by_folder(entries).items(), key=lambda item: item[0].path):
        reason = jobs.keep(folder)
        if reason is None and max(entry.modified for entry in objects) > now - older_than:
            reason = "written to lately"
        if reason is not None:
            kept.append((folder, reason))
            continue
        found = _parts(folder, objects, everything)
        parts += found
        if not found:
            kept.append((folder, "models, logs and results only"))
    return Decision(tuple(parts), tuple(kept))


def _parts(folder: Folder, entries: Sequence[Entry], everything: bool) -> list[Part]:
    dead = _dead(entries)
    groups: dict[str, list[Entry]] = {DEAD: [], CHECKPOINTS: [], REST: []}
    for entry in entries:
        if entry.key in dead:
            groups[DEAD].append(entry)
        elif owner_of(entry.key).kind is Kind.CHECKPOINT:
            groups[CHECKPOINTS].append(entry)
        elif everything:
            groups[REST].append(entry)
    return [
        Part(folder, what, tuple(sorted(found, key=lambda e: (not is_commit(e.key), e.key))))
        for what, found in groups.items()
        if found
    ]


def _dead(entries: Sequence[Entry]) -> set[str]:
    """The keys of a job's saves and models whose attempts have no commit of them."""
    stages: dict[str, dict[str, str]] = {}
    for entry in entries:
        owner = owner_of(entry.key)
        if owner.stage:
            stages.setdefault(owner.stage, {})[owner.rest] = entry.key
    return {keys[rest] for keys in stages.values() for rest in saves_without_commit(keys)}

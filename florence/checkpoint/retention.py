"""Deleting checkpoints that are no longer needed, in an order in which dying is harmless."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from florence.checkpoint.lineage import (
    by_preference,
    check_sizes,
    listed_commits,
    parents,
    read_commit,
    read_manifest,
    successor_of,
)
from florence.checkpoint.manifest import DATA, CommitId, prefix_of
from florence.errors import DataError
from florence.storage import Entry, Storage

UNCOMMITTED_SECONDS = 24 * 3600.0
"""Uncommitted data that nobody touched for this long belongs to a save that died."""

_log = logging.getLogger(__name__)


def retain(
    storage: Storage, *, attempt: int, keep: int, now: float, spare: int | None = None
) -> None:
    """Keep the ``keep`` newest whole commits; delete older ones, and saves that died long ago.

    A commit goes before its data, so that no commit ever names missing data; data whose commit is
    gone counts as a save that died. It runs between saves, so its own attempt writes nothing
    meanwhile. Commits that are not whole do not count as kept, so damage never costs the last good
    state. An attempt with a successor deletes nothing. ``now`` is in unix seconds. Commits of
    the step ``spare`` are kept beside the newest.
    """
    if successor_of(storage, attempt) is not None:
        return
    # Data is listed before commits: what is committed in between then counts as committed.
    data = storage.list(DATA)
    commits = by_preference(listed_commits(storage), parents(storage))
    for commit_id in _superfluous(storage, commits, keep):
        if commit_id.step == spare:
            continue
        _delete_commit(storage, commit_id)
    committed = {prefix for commit in commits if (prefix := _data_of(storage, commit))}
    for prefix in _abandoned(data, committed, attempt, now):
        _log.info("swept uncommitted data prefix=%s", storage.url(prefix))
        _delete_data(storage, prefix)
    storage.sweep_unfinished(before=now - UNCOMMITTED_SECONDS)


def _superfluous(storage: Storage, commits: Iterable[CommitId], keep: int) -> list[CommitId]:
    """The commits after the ``keep`` first whole ones."""
    whole, superfluous = 0, []
    for commit_id in commits:
        if whole >= keep:
            superfluous.append(commit_id)
        elif _is_whole(storage, commit_id):
            whole += 1
    return superfluous


def _is_whole(storage: Storage, commit_id: CommitId) -> bool:
    try:
        commit = read_commit(storage, commit_id)
        check_sizes(storage, commit.prefix, read_manifest(storage, commit))
    except DataError:
        return False
    return True


def _delete_commit(storage: Storage, commit_id: CommitId) -> None:
    prefix = _data_of(storage, commit_id)
    storage.delete(commit_id.key)
    if prefix:
        _delete_data(storage, prefix)


def _data_of(storage: Storage, commit_id: CommitId) -> str | None:
    """The prefix a commit names, or None if the commit is gone or garbage."""
    try:
        return read_commit(storage, commit_id).prefix
    except DataError:
        return None


def _delete_data(storage: Storage, prefix: str) -> None:
    for entry in storage.list(f"{prefix}/"):
        storage.delete(entry.key)


def _abandoned(data: Iterable[Entry], spared: set[str], attempt: int, now: float) -> list[str]:
    """Prefixes of attempts up to ours that nobody wrote to for a day and that are not spared."""
    touched: dict[str, float] = {}
    for entry in data:
        named = prefix_of(entry.key)
        if named and named[1].attempt <= attempt:
            touched[named[0]] = max(entry.modified, touched.get(named[0], entry.modified))
    return sorted(
        prefix
        for prefix, modified in touched.items()
        if prefix not in spared and modified < now - UNCOMMITTED_SECONDS
    )

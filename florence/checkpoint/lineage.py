"""Which commits there are, in which order to trust them, and whether one is whole.

An attempt records, before its first commit, which commit it began from. Read backwards from the
newest attempt, the records form one line: all commits of that attempt; then, of the attempt it
restored from, those up to the restored step; and so on. A process of an older attempt that is still
alive (a zombie) can go on committing, but only beyond the step its successor restored, which is off
the line. Commits off the line come last in :func:`by_preference`: they are whole states of the same
training, so they beat starting over, but they never win against a commit on the line.
No clock, lock or conditional write is needed: each record and each commit has one writer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping

from florence.checkpoint.manifest import (
    ATTEMPTS,
    COMMITS,
    MANIFEST,
    AttemptRecord,
    Commit,
    CommitId,
    Manifest,
    attempt_key,
    attempt_named,
    commit_named,
    parsed,
    prefix_of,
)
from florence.errors import DataError, TransientError
from florence.storage import Storage

OnSkip = Callable[[str], None]


class SupersededError(TransientError):
    """A newer attempt began: this one may store nothing any more and has to end."""


def listed_commits(storage: Storage, attempt_limit: int | None = None) -> list[CommitId]:
    """Every commit of attempts up to ``attempt_limit``, by key alone; none is verified."""

    found = (commit_named(entry.key) for entry in storage.list(COMMITS))
    return sorted(
        commit
        for commit in found
        if commit and (attempt_limit is None or commit.attempt <= attempt_limit)
    )


def parents(
    storage: Storage, attempt_limit: int | None = None, on_skip: OnSkip = lambda message: None
) -> dict[int, CommitId | None]:
    """For every attempt on record up to ``attempt_limit``: the commit it began from.

    A damaged record counts as having begun from nothing, which puts its own commits first still.
    """
    found: dict[int, CommitId | None] = {}
    for entry in storage.list(ATTEMPTS):
        attempt = attempt_named(entry.key)
        if attempt is None or (attempt_limit is not None and attempt > attempt_limit):
            continue
        try:
            record = parsed(AttemptRecord, storage.read(entry.key), storage.url(entry.key))
            found[attempt] = record.parent
        except DataError as error:
            on_skip(f"ignored what attempt {attempt} began from: {error}")
            found[attempt] = None
    return found


def line_of(
    commits: Collection[CommitId], began_from: Mapping[int, CommitId | None]
) -> list[CommitId]:
    """The commits on the newest attempt's line, newest first."""
    line: list[CommitId] = []
    attempt: int | None = max(began_from, default=None)
    newest_step = max((commit.step for commit in commits), default=0)
    while attempt is not None:
        own = (c for c in commits if c.attempt == attempt and c.step <= newest_step)
        line += sorted(own, reverse=True)
        parent = began_from.get(attempt)
        if parent is None or parent.attempt >= attempt:
            break
        newest_step, attempt = parent
    return line


def by_preference(
    commits: Collection[CommitId], began_from: Mapping[int, CommitId | None]
) -> list[CommitId]:
    """All commits, the best first: the newest line, then the others by step and attempt."""
    line = line_of(commits, began_from)
    return line + sorted(set(commits) - set(line), reverse=True)


def successor_of(storage: Storage, attempt: int) -> int | None:
    """The newest attempt that began after ``attempt`` did, if any did."""
    attempts = (attempt_named(entry.key) for entry in storage.list(ATTEMPTS))
    return max((other for other in attempts if other is not None and other > attempt), default=None)


def refuse_if_superseded(storage: Storage, attempt: int) -> None:
    """Raise ``SupersededError`` if another attempt began after ``attempt`` did."""
    successor = successor_of(storage, attempt)
    if successor is not None:
        raise SupersededError(
            f"{storage.uri}: attempt {successor} took over from attempt {attempt}, "
            "which saves no more: stop this process"
        )


def record_attempt(storage: Storage, attempt: int, parent: CommitId | None, started: float) -> None:
    """Store what an attempt began from, unless an earlier start of the same attempt did."""
    record = AttemptRecord(attempt=attempt, started=started, restored=parent)
    storage.write_new(attempt_key(attempt), record.to_bytes())


def read_commit(storage: Storage, commit_id: CommitId) -> Commit:
    """A commit. Raises ``DataError`` if it is missing, garbage, or not what its key says."""
    url = storage.url(commit_id.key)
    commit = parsed(Commit, storage.read(commit_id.key), url)
    named = prefix_of(f"{commit.prefix}/{MANIFEST}")
    if commit.id != commit_id or named is None or named != (commit.prefix, commit_id):
        raise DataError(f"{url} names step, attempt or data other than its own")
    return commit


def read_manifest(storage: Storage, commit: Commit) -> Manifest:
    """The manifest a commit names. Raises ``DataError`` unless its digest is the committed one."""
    key = f"{commit.prefix}/{MANIFEST}"
    body = storage.read(key)
    if hashlib.sha256(body).hexdigest() != commit.manifest_sha256:
        raise DataError(f"{storage.url(key)} differs from what was committed")
    return parsed(Manifest, body, storage.url(key))


def check_sizes(storage: Storage, prefix: str, manifest: Manifest) -> None:
    """Raise ``DataError`` unless every file of a checkpoint is there in its full size."""
    sizes = {entry.key: entry.size for entry in storage.list(f"{prefix}/")}
    for name, digest in manifest.files.items():
        key = f"{prefix}/{name}"
        if key not in sizes:
            raise DataError(f"{storage.url(key)} is missing")
        if sizes[key] != digest.size:
            raise DataError(f"{storage.url(key)} has {sizes[key]} of its {digest.size} bytes")


def whole_commits(
    storage: Storage, attempt_limit: int | None, on_skip: OnSkip
) -> Iterator[tuple[Commit, Manifest]]:
    """Commits by preference whose manifest and sizes hold; the others are told to ``on_skip``."""
    commits = listed_commits(storage, attempt_limit)
    began_from = parents(storage, attempt_limit, on_skip)
    line = set(line_of(commits, began_from))
    for commit_id in by_preference(commits, began_from):
        try:
            commit = read_commit(storage, commit_id)
            manifest = read_manifest(storage, commit)
            check_sizes(storage, commit.prefix, manifest)
        except DataError as error:
            on_skip(f"skipped the checkpoint of step {commit_id.step}: {error}")
            continue
        if began_from and commit_id not in line:
            on_skip(
                f"no commit of the newest attempt's line is whole: step {commit_id.step} comes "
                f"from attempt {commit_id.attempt} after its successor began"
            )
        yield commit, manifest

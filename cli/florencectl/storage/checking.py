"""What credentials may do in their own prefix, and whether they are refused elsewhere."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from florence.errors import ConfigurationError, FlorenceError, TransientError
from florence.storage import MissingKeyError, Storage
from florencectl.levels import Level
from florencectl.storage.policy import Grant


@dataclass(frozen=True, slots=True)
class Finding:
    """What was tried, how it ended, and what was seen."""

    check: str
    level: Level
    found: str


class Bucket(Storage, Protocol):
    """A storage on S3."""

    def creates_once(self, key: str) -> bool:
        """Whether the server itself refuses to create an object twice."""


_BODY = b"florence"


def check(grant: Grant, opened: Callable[[str], Bucket]) -> Iterator[Finding]:
    """Each finding, as it comes; what was written is deleted again.

    Args:
        grant: whose credentials they are, and what they are for.
        opened: the storage at a prefix of the bucket, with the credentials.

    Raises:
        TransientError: the server gave up.
    """
    name = f".florence-check-{uuid.uuid4().hex}"
    yield from _own(opened(grant.prefix), name)
    for prefix in grant.shared:
        shared = opened(prefix)
        yield _may(f"list {prefix}/", lambda shared=shared: shared.list(name))  # type: ignore[misc]
        yield _refused(f"write {prefix}/", lambda shared=shared: _write(shared, name))  # type: ignore[misc]
    # No namespace has such a name: what is there is nobody's.
    others = opened("/".join(part for part in (grant.base, f"florence-check-{name[-8:]}") if part))
    yield _refused("write another namespace's", lambda: _write(others, name))
    yield _refused("read another namespace's", lambda: _read(others, name))
    yield _refused("list another namespace's", lambda: others.list(name))
    whole = opened(grant.base)
    yield _refused(f"list {grant.base or 'the whole bucket'}", lambda: whole.list(name))


def failed(findings: Sequence[Finding]) -> bool:
    """Whether something is not as it should be."""
    return any(finding.level is Level.FAIL for finding in findings)


def _own(own: Bucket, name: str) -> Iterator[Finding]:
    """List, write, read, create once and delete below the namespace's own prefix."""
    yield _may("list", lambda: own.list(name))
    wrote = _may("write", lambda: own.write(name, _BODY))
    yield wrote
    if wrote.level is not Level.OK:
        return
    yield _may("read", lambda: _same(own.read(name)))
    yield _may("read what is not there", lambda: _is_missing(own, f"{name}-missing"))
    yield _conditional(own, f"{name}-once")
    yield _may("delete", lambda: _delete(own, name, f"{name}-once"))


def _conditional(own: Bucket, key: str) -> Finding:
    check = "conditional write"
    try:
        once = own.creates_once(key)
    except ConfigurationError as error:
        return Finding(check, Level.FAIL, str(error))
    if once:
        return Finding(check, Level.OK, "the server refuses to create an object twice")
    return Finding(
        check,
        Level.WARN,
        "the server creates an object twice; checkpoints do not depend on it",
    )


def _may(check: str, act: Callable[[], object]) -> Finding:
    try:
        act()
    except TransientError:
        raise
    except FlorenceError as error:
        return Finding(check, Level.FAIL, str(error))
    return Finding(check, Level.OK, "allowed")


def _refused(check: str, act: Callable[[], object]) -> Finding:
    try:
        act()
    except TransientError:
        raise
    except MissingKeyError:
        pass  # an answer, where there should be none
    except ConfigurationError:
        return Finding(check, Level.OK, "refused, as it should be")
    return Finding(check, Level.FAIL, "allowed: these credentials are for more than one namespace")


def _write(storage: Bucket, name: str) -> None:
    storage.write(name, _BODY)
    storage.delete(name)


def _read(storage: Bucket, name: str) -> None:
    storage.read(name)


def _same(body: bytes) -> None:
    if body != _BODY:
        raise FlorenceError(f"{len(body)} other bytes came back than the {len(_BODY)} written")


def _is_missing(storage: Bucket, key: str) -> None:
    if storage.size(key) is not None:
        raise FlorenceError(f"{storage.url(key)} is told to be there")


def _delete(storage: Bucket, *keys: str) -> None:
    for key in keys:
        storage.delete(key)
    left = [key for key in keys if storage.size(key) is not None]
    if left:
        raise FlorenceError(f"{', '.join(map(storage.url, left))} are still there")

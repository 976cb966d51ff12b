"""The documents of the commit protocol and the keys they live under.

::

    attempts/<attempt>.json            which commit an attempt began from
    data/step-<S>/<attempt>-<uuid>/    one checkpoint: shards and manifest.json; never written twice
    commits/<S>-<attempt>.json         the commit: written last, once

All are strict: a document with anything missing, unknown or of another type is not one of ours.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from florence.errors import DataError

COMMITS = "commits/"
ATTEMPTS = "attempts/"
DATA = "data/"
MANIFEST = "manifest.json"
DIGEST_PATTERN = r"^[0-9a-f]{64}$"

_COMMIT_KEY = re.compile(r"commits/(\d{12})-(\d+)\.json")
_ATTEMPT_KEY = re.compile(r"attempts/(\d+)\.json")
_PREFIX = re.compile(r"(data/step-(\d+)/(\d+)-[0-9a-f]{32})/.+", re.DOTALL)

Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]
FileName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class Document(BaseModel):
    """The base of everything the protocol stores as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def to_bytes(self) -> bytes:
        """The document as stored."""
        return self.model_dump_json(indent=1).encode()


class CommitId(NamedTuple):
    """Which commit: the step it holds, in optimizer steps done, and the attempt that wrote it."""

    step: int
    attempt: int

    @property
    def key(self) -> str:
        """Where the commit is stored; zero-padded so that listings are in order of steps."""
        return f"{COMMITS}{self.step:012d}-{self.attempt}.json"


class FileDigest(Document):
    """Size in bytes and SHA-256 of one stored file."""

    size: Count
    sha256: Digest

    @classmethod
    def of(cls, body: bytes) -> FileDigest:
        """The digest of a file's content."""
        return cls(size=len(body), sha256=hashlib.sha256(body).hexdigest())


class Run(Document):
    """Where consecutive elements of a tensor lie: ``begin`` is a byte of the file, ``offset`` the
    first element in the flattened tensor."""

    file: FileName
    begin: Count
    offset: Count
    elements: Count


class TensorEntry(Document):
    """One tensor of the global state. ``dtype`` is safetensors' name; runs are sorted by offset."""

    shape: list[Count]
    dtype: str
    runs: list[Run]


class Manifest(Document):
    """Everything one checkpoint consists of."""

    format: Literal[1] = 1
    step: Count
    attempt: Count
    world_size: Annotated[int, Field(ge=1)]
    written: float
    versions: dict[str, str]
    files: dict[FileName, FileDigest]
    tensors: dict[str, TensorEntry]
    metadata: dict[str, JsonValue]


class Commit(Document):
    """The statement that a checkpoint may be read."""

    format: Literal[1] = 1
    step: Count
    attempt: Count
    prefix: str
    manifest_sha256: Digest

    @property
    def id(self) -> CommitId:
        """Step and attempt."""
        return CommitId(self.step, self.attempt)


class AttemptRecord(Document):
    """The commit, if any, that an attempt began from. What it began from later is its own."""

    format: Literal[1] = 1
    attempt: Count
    started: float
    restored: tuple[Count, Count] | None

    @property
    def parent(self) -> CommitId | None:
        """The commit that was restored."""
        return CommitId(*self.restored) if self.restored else None


DocumentT = TypeVar("DocumentT", bound=Document)


def parsed(kind: type[DocumentT], body: bytes, url: str) -> DocumentT:
    """The document in ``body``. Raises ``DataError`` naming ``url`` and the first thing wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise DataError(f"{url} is not a {kind.__name__}: {where}: {first['msg']}") from None


def new_prefix(step: int, attempt: int) -> str:
    """A prefix that no checkpoint was ever written under."""
    return f"{DATA}step-{step}/{attempt}-{uuid.uuid4().hex}"


def prefix_of(key: str) -> tuple[str, CommitId] | None:
    """The checkpoint prefix a data key lies under, and whose it is."""
    match = _PREFIX.fullmatch(key)
    return (match[1], CommitId(int(match[2]), int(match[3]))) if match else None


def attempt_key(attempt: int) -> str:
    """Where an attempt's record is stored."""
    return f"{ATTEMPTS}{attempt}.json"


def commit_named(key: str) -> CommitId | None:
    """The commit that a key under ``commits/`` is for, or None if it is no commit's key."""
    match = _COMMIT_KEY.fullmatch(key)
    return CommitId(int(match[1]), int(match[2])) if match else None


def attempt_named(key: str) -> int | None:
    """The attempt that a key under ``attempts/`` is for, or None if it is no record's key."""
    match = _ATTEMPT_KEY.fullmatch(key)
    return int(match[1]) if match else None


def json_values(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a mapping as JSON values. Raises ``TypeError`` or ``ValueError`` if it is none."""
    values: dict[str, Any] = json.loads(json.dumps(dict(mapping), allow_nan=False))
    return values


def configuration_digest(configuration: dict[str, Any]) -> str:
    """SHA-256 of a configuration (JSON values), whatever the order of its keys."""
    canonical = json.dumps(configuration, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()

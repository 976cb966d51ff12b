"""A folder of shards that is being made: until it is whole nothing reads it as data.

In a folder a rename could say so, in S3 nothing can; hence a marker, ``unfinished.json``, that is
written before anything else, deleted last, and refused by whatever lists shards. It also holds how
far the work has come, so that the same command goes on where it was killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from florence.errors import ConfigurationError, DataError
from florence.storage import MissingKeyError, Storage

MARKER = "unfinished.json"


class Draft:
    """One folder in the making.

    Attributes:
        storage: the folder.
        finished: the record of the same work when it was done before; nothing is left to do.
        state: what :meth:`save` stored last, empty at the beginning.
    """

    def __init__(
        self, storage: Storage, digest: str, finished: dict[str, Any] | None, state: dict[str, Any]
    ) -> None:
        self.storage = storage
        self.digest = digest
        self.finished = finished
        self.state = state

    @classmethod
    def begin(cls, storage: Storage, *, digest: str, record: str, made: Sequence[str]) -> Draft:
        """Start, or go on with what an earlier process left.

        Args:
            storage: where the shards go; empty, or holding an earlier try of the same program.
            digest: of everything that the result depends on. Another digest's unfinished work is
                deleted and started over; its finished work is refused.
            record: the name of the JSON that says what was made, written at the end.
            made: suffixes (``.tar``) and folders (``dropped/``) of what the work writes.

        Raises:
            ConfigurationError: the folder holds something else.
        """
        marker = _read(storage, MARKER)
        if marker is None:
            known = _read(storage, record)
            if known is not None and known.get("digest") == digest:
                return cls(storage, digest, known, {})
            if storage.list():
                raise ConfigurationError(
                    f"{storage.uri} already holds something else: choose another folder for the "
                    "result, or empty it"
                )
        elif marker.get("digest") == digest and marker.get("state"):
            return cls(storage, digest, None, marker["state"])
        else:
            for entry in storage.list():
                if entry.key.endswith(tuple(made)) or entry.key.startswith(tuple(made)):
                    storage.delete(entry.key)
        draft = cls(storage, digest, None, {})
        draft.save({})
        return draft

    def save(self, state: Mapping[str, Any]) -> None:
        """Remember how far the work has come; the next try goes on from there."""
        self.state = dict(state)
        self.storage.write(MARKER, _json({"digest": self.digest, "state": self.state}))

    def start_over(self) -> None:
        """Have the next try begin from nothing: what is there is not worth going on with."""
        self.save({})

    def finish(self, record: str, content: Mapping[str, Any]) -> None:
        """Write the record of what was made and make the folder data."""
        self.storage.write(record, _json({"digest": self.digest, **content}))
        self.storage.delete(MARKER)


def refuse_unfinished(storage: Storage) -> None:
    """Raises :class:`DataError` when the shards in a folder are not yet all there."""
    if storage.size(MARKER) is not None:
        raise DataError(
            f"{storage.uri} holds an unfinished import or curation ({MARKER}): run the same "
            "command again, it goes on where it stopped"
        )


def digest_of(*values: Any) -> str:
    """32 hex digits that stand for JSON values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode(
        "utf-8", "backslashreplace"
    )


def _read(storage: Storage, key: str) -> dict[str, Any] | None:
    try:
        document = json.loads(storage.read(key))
    except MissingKeyError:
        return None
    except ValueError as error:
        raise DataError(f"{storage.url(key)} is not JSON: delete {storage.uri}") from error
    if not isinstance(document, dict):
        raise DataError(f"{storage.url(key)} is not a JSON object: delete {storage.uri}")
    return document

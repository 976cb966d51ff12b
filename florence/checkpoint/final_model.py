"""The weights a stage ends with: plain files under ``model/``, committed last with digests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import JsonValue

from florence.checkpoint.manifest import Document, FileDigest, FileName, json_values, parsed
from florence.errors import DataError
from florence.storage import MissingKeyError, Storage

FOLDER = "model"
COMMIT = f"{FOLDER}/commit.json"


class FinalModelCommit(Document):
    """The statement that the files under ``model/`` belong together and are whole."""

    format: Literal[1] = 1
    files: dict[FileName, FileDigest]
    metadata: dict[str, JsonValue]


class FinalModel:
    """A committed final model. Content is checked against the commit before it is handed out."""

    def __init__(self, storage: Storage, commit: FinalModelCommit) -> None:
        self._storage = storage
        self.commit = commit

    @property
    def uri(self) -> str:
        """Where its files are."""
        return self._storage.url(FOLDER)

    @property
    def metadata(self) -> dict[str, Any]:
        """What was saved beside the files, as JSON values."""
        return dict(self.commit.metadata)

    def names(self) -> list[str]:
        """The names of its files, sorted."""
        return sorted(self.commit.files)

    def read(self, name: str) -> bytes:
        """One file. Raises ``DataError`` if it is missing or differs from what was committed."""
        if name not in self.commit.files:
            raise DataError(f"{self.uri} has no file '{name}'")
        key = f"{FOLDER}/{name}"
        body = self._storage.read(key)
        if FileDigest.of(body) != self.commit.files[name]:
            raise DataError(
                f"{self._storage.url(key)} differs from what was committed: run the stage again"
            )
        return body


def write_final_model(
    storage: Storage, files: Mapping[str, bytes], metadata: Mapping[str, Any] | None = None
) -> None:
    """Store a stage's final model under ``model/``; until the last write there is none to read.

    Names are lower case, such as ``model.safetensors``. An earlier model is replaced; if it is the
    same one, nothing is written. Raises the storage's ``TryAgainError`` and ``ConfigurationError``.
    """
    digests = {name: FileDigest.of(body) for name, body in files.items()}
    commit = FinalModelCommit(files=digests, metadata=json_values(metadata or {}))
    if _stored(storage) == commit:
        return
    storage.delete(COMMIT)
    for name, body in files.items():
        storage.write(f"{FOLDER}/{name}", body)
    storage.write(COMMIT, commit.to_bytes())


def read_final_model(storage: Storage) -> FinalModel:
    """A stage's final model. Raises ``DataError`` if the stage has not finished one."""
    try:
        body = storage.read(COMMIT)
    except MissingKeyError:
        raise DataError(
            f"{storage.url(FOLDER)} holds no finished model: run the stage that writes it"
        ) from None
    return FinalModel(storage, parsed(FinalModelCommit, body, storage.url(COMMIT)))


def _stored(storage: Storage) -> FinalModelCommit | None:
    """The commit in place if all it names is whole."""
    try:
        model = read_final_model(storage)
        for name in model.names():
            model.read(name)
    except DataError:
        return None
    return model.commit

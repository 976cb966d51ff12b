"""The weights a stage ends with: files under ``model/`` that a commit of their attempt names.

::

    model/<attempt>-<uuid>/…       the files of one try; never written twice
    model/commit-<attempt>.json    written last: names the folder, with sizes and digests

Readers trust commits only, and that of the newest attempt: a process of an older attempt that is
still alive (a zombie) can commit under its own name alone. Models of before have their files
directly in ``model/`` and ``commit.json``; they count as those of attempt 0.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import JsonValue

from florence.checkpoint.lineage import refuse_if_superseded
from florence.checkpoint.manifest import Document, FileDigest, FileName, json_values, parsed
from florence.errors import DataError, TransientError
from florence.storage import MissingKeyError, Storage

FOLDER = "model"

_COMMIT = re.compile(r"(?:model/)?commit(?:-(\d+))?\.json")
_FILE = re.compile(r"model/(\d+)-[0-9a-f]{32}/.+", re.DOTALL)
_FOLDER = re.compile(r"\d+-[0-9a-f]{32}")

_log = logging.getLogger(__name__)


class FinalModelCommit(Document):
    """The statement that files belong together and are whole."""

    format: Literal[1, 2] = 2
    folder: str = ""
    """Where they are, beside the commit; empty in format 1, whose files are right there."""
    files: dict[FileName, FileDigest]
    metadata: dict[str, JsonValue]


class FinalModel:
    """A committed final model. Content is checked against the commit before it is handed out."""

    def __init__(self, storage: Storage, commit_key: str, commit: FinalModelCommit) -> None:
        self._storage = storage
        self._base = commit_key.rpartition("/")[0]
        self.commit_key = commit_key
        self.commit = commit

    @property
    def uri(self) -> str:
        """The folder that its commit is in, which stays the same when the stage runs again."""
        return self._storage.url(self._base) if self._base else self._storage.uri

    @property
    def metadata(self) -> dict[str, Any]:
        """What was saved beside the files, as JSON values."""
        return dict(self.commit.metadata)

    def names(self) -> list[str]:
        """The names of its files, sorted."""
        return sorted(self.commit.files)

    def read(self, name: str) -> bytes:
        """One file.

        Raises ``DataError`` if it is missing or differs from what was committed, ``TransientError``
        if the model was replaced by another one meanwhile.
        """
        if name not in self.commit.files:
            raise DataError(f"{self.uri} has no file '{name}'")
        key = "/".join(part for part in (self._base, self.commit.folder, name) if part)
        try:
            body = self._storage.read(key)
        except MissingKeyError:
            if self._was_replaced():
                raise TransientError(
                    f"{self.uri} was replaced while it was read: start again"
                ) from None
            raise
        if FileDigest.of(body) != self.commit.files[name]:
            raise DataError(
                f"{self._storage.url(key)} differs from what was committed: run the stage again"
            )
        return body

    def _was_replaced(self) -> bool:
        newest = committed_model(self._storage)
        return newest is not None and newest.commit != self.commit


def write_final_model(
    storage: Storage,
    files: Mapping[str, bytes],
    metadata: Mapping[str, Any] | None = None,
    *,
    attempt: int,
) -> None:
    """Store a stage's final model under ``model/``; the commit comes last.

    Names are lower case, such as ``model.safetensors``. Until then an earlier model stays readable,
    and then what attempts up to this one left is deleted. The same model is not written twice.

    Raises:
        SupersededError: a newer attempt began; this one's model is not wanted.
        TransientError, ConfigurationError: the storage's.
    """
    refuse_if_superseded(storage, attempt)
    digests = {name: FileDigest.of(body) for name, body in files.items()}
    values = json_values(metadata or {})
    if _is_stored(storage, digests, values):
        return
    folder = f"{attempt}-{uuid.uuid4().hex}"
    for name, body in files.items():
        storage.write(f"{FOLDER}/{folder}/{name}", body)
    refuse_if_superseded(storage, attempt)
    commit = FinalModelCommit(folder=folder, files=digests, metadata=values)
    storage.write(f"{FOLDER}/commit-{attempt}.json", commit.to_bytes())
    try:
        _delete_older(storage, attempt, folder)
    except Exception as error:  # the model is committed; the next attempt deletes again
        _log.warning("deleting what earlier attempts left of the model failed: %s", error)


def read_final_model(storage: Storage) -> FinalModel:
    """A stage's final model. Raises ``DataError`` if the stage has not finished one."""
    model = _newest(storage, f"{FOLDER}/")
    if model is None:
        raise DataError(
            f"{storage.url(FOLDER)} holds no finished model: run the stage that writes it"
        )
    return model


def committed_model(storage: Storage) -> FinalModel | None:
    """The model of a stage's artifacts or of their folder ``model/``, whichever ``storage`` is.

    None where no commit is, such as in a plain folder with a model's two files.
    """
    return _newest(storage, f"{FOLDER}/") or _newest(storage, "")


def is_folder_of_files(name: str) -> bool:
    """Whether a folder of that name may hold the files of one try, its commit beside it."""
    return _FOLDER.fullmatch(name) is not None


def _newest(storage: Storage, base: str) -> FinalModel | None:
    """The model that the newest attempt committed under a prefix."""
    found = {}
    keys = [entry.key for entry in storage.list(f"{base}commit-")]
    if storage.size(f"{base}commit.json") is not None:
        keys.append(f"{base}commit.json")
    for key in keys:
        match = _COMMIT.fullmatch(key)
        if match and key.startswith(base):
            found[int(match[1] or 0)] = key
    if not found:
        return None
    key = found[max(found)]
    return FinalModel(storage, key, parsed(FinalModelCommit, storage.read(key), storage.url(key)))


def _is_stored(
    storage: Storage, files: Mapping[str, FileDigest], metadata: Mapping[str, Any]
) -> bool:
    """Whether the model in place is this one, and whole."""
    try:
        model = _newest(storage, f"{FOLDER}/")
        if model is None or model.commit.files != files or model.metadata != metadata:
            return False
        for name in model.names():
            model.read(name)
    except DataError:
        return False
    return True


def _delete_older(storage: Storage, attempt: int, folder: str) -> None:
    """Delete what attempts up to this one left, but what it committed: commits before files."""
    keys = [entry.key for entry in storage.list(f"{FOLDER}/")]
    plain: list[str] = []
    for key in keys:
        match = _COMMIT.fullmatch(key)
        if match is None or int(match[1] or 0) >= attempt:
            continue
        if match[1] is None:
            plain = _plain_files(storage, key)
        storage.delete(key)
    for key in plain:
        storage.delete(key)
    for key in keys:
        match = _FILE.fullmatch(key)
        if match and int(match[1]) <= attempt and not key.startswith(f"{FOLDER}/{folder}/"):
            storage.delete(key)


def _plain_files(storage: Storage, commit_key: str) -> list[str]:
    """The files of a model of before, which lie beside its commit."""
    try:
        commit = parsed(FinalModelCommit, storage.read(commit_key), storage.url(commit_key))
    except DataError:
        return []
    return [f"{FOLDER}/{name}" for name in commit.files]

"""Whose an object below ``artifacts.uri`` is, by its key: namespace, job, stage and kind of file.

::

    <namespace>/<job>-<uid8>/<stage>/data/step-<S>/<attempt>-<uuid>/…    checkpoints
                                     commits/<S>-<attempt>.json
                                     attempts/<attempt>.json
                                     model/<attempt>-<uuid>/…            models
                                     model/commit-<attempt>.json
                                     logs/…                              logs
                                     metrics.json  pictures/…  tables/…  results

Jobs of a machine (``--local``) have no uid in their folder and belong to no cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from florence.storage import Entry

_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAMESPACE = re.compile(_LABEL)
_FOLDER = re.compile(rf"({_LABEL}(?:\.{_LABEL})*)-([0-9a-f]{{8}})")
_UNCOMMITTED_MODEL = re.compile(r"model/(\d+)-[0-9a-f]{32}/.+", re.DOTALL)
_MODEL_COMMIT = re.compile(r"model/commit-(\d+)\.json")
_SAVE = re.compile(r"(data/step-(\d+)/(\d+)-[0-9a-f]{32})/.+", re.DOTALL)
_COMMIT = re.compile(r"commits/(\d+)-(\d+)\.json")


class Kind(StrEnum):
    """What a file of a stage is."""

    CHECKPOINT = "checkpoint"
    MODEL = "model"
    LOG = "log"
    TENSORBOARD = "tensorboard"
    RESULT = "result"
    OTHER = "other"


_RULES: tuple[tuple[re.Pattern[str], Kind], ...] = (
    (re.compile(r"data/step-\d+/.+|commits/.+|attempts/.+", re.DOTALL), Kind.CHECKPOINT),
    (re.compile(r"model/.+", re.DOTALL), Kind.MODEL),
    (re.compile(r"logs/.+", re.DOTALL), Kind.LOG),
    (re.compile(r"tensorboard/.+", re.DOTALL), Kind.TENSORBOARD),
    (
        re.compile(r"metrics\.json|example\.png|(?:pictures|tables|results)/.+", re.DOTALL),
        Kind.RESULT,
    ),
)


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of a job that ran on a cluster."""

    namespace: str
    name: str
    """Name of the job, a dash, and the first eight digits of its uid."""

    @property
    def path(self) -> str:
        """Where it is below ``artifacts.uri``."""
        return f"{self.namespace}/{self.name}"

    @property
    def job(self) -> str:
        """The job's name."""
        return self.name[:-9]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose an object is, and what it is.

    Attributes:
        namespace: first part of the key; empty for an object beside the namespaces' folders.
        folder: of a job of a cluster or of a machine; empty for what lies beside jobs.
        stage: empty for what lies beside stages.
        kind: of the file.
        rest: the key within the stage, the job's folder or the namespace.
    """

    namespace: str
    folder: str
    stage: str
    kind: Kind
    rest: str


def owner_of(key: str) -> Owner:
    """Whose the object under a key below ``artifacts.uri`` is."""
    namespace, slash, below = key.partition("/")
    if not slash or not _NAMESPACE.fullmatch(namespace):
        return Owner("", "", "", Kind.OTHER, key)
    folder, _, in_folder = below.partition("/")
    stage, _, rest = in_folder.partition("/")
    if folder and _NAMESPACE.fullmatch(stage):
        for rule, kind in _RULES:
            if rule.fullmatch(rest):
                return Owner(namespace, folder, stage, kind, rest)
    if job_folder(namespace, folder) and in_folder:
        return Owner(namespace, folder, "", Kind.OTHER, in_folder)
    return Owner(namespace, "", "", Kind.OTHER, below)


def job_folder(namespace: str, name: str) -> Folder | None:
    """The folder of a cluster's job, or None when the name is none of one.

    Eight digits that read as a day (``digits-20261126``) are a name that somebody gave; one uid in
    ten thousand begins so, and is taken for a name as well.
    """
    match = _FOLDER.fullmatch(name)
    if match is None or _is_day(match[2]):
        return None
    return Folder(namespace, name)


def saves_without_commit(keys: Iterable[str]) -> set[str]:
    """Of a stage's keys, those of saves and models that no commit of their attempt can name.

    A save's commit has its step and attempt, a model's its attempt.
    """
    keys = list(keys)
    commits = {(int(m[1]), int(m[2])) for m in _matches(_COMMIT, keys)}
    models = {int(m[1]) for m in _matches(_MODEL_COMMIT, keys)}
    dead = {m[0] for m in _matches(_SAVE, keys) if (int(m[2]), int(m[3])) not in commits}
    return dead | {m[0] for m in _matches(_UNCOMMITTED_MODEL, keys) if int(m[1]) not in models}


def is_commit(key: str) -> bool:
    """Whether readers trust an object, and others because of it: it has to go first."""
    rest = owner_of(key).rest
    return bool(_COMMIT.fullmatch(rest) or _MODEL_COMMIT.fullmatch(rest))


def by_folder(entries: Iterable[Entry]) -> dict[Folder, list[Entry]]:
    """The objects of each cluster's job; what is no such job's is left out.

    A folder counts as a job's when one of its files is one that a stage writes.
    """
    found: dict[Folder, list[Entry]] = {}
    written: set[Folder] = set()
    for entry in entries:
        owner = owner_of(entry.key)
        folder = job_folder(owner.namespace, owner.folder)
        if folder is None:
            continue
        found.setdefault(folder, []).append(entry)
        if owner.stage:
            written.add(folder)
    return {folder: objects for folder, objects in found.items() if folder in written}


def _is_day(digits: str) -> bool:
    try:
        return 1990 <= datetime.strptime(digits, "%Y%m%d").year <= 2100
    except ValueError:
        return False


def _matches(pattern: re.Pattern[str], keys: Iterable[str]) -> Iterator[re.Match[str]]:
    return (match for key in keys if (match := pattern.fullmatch(key)))

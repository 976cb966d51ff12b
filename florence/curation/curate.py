"""Curation of a set of shards: measure every sample, decide about all, write what stays.

Measurements are kept by shard until the end and written shards stay, so that a killed run goes on
after the last whole shard. What is decided depends on the data and the settings alone: not on the
number of processes, the memory they may use, or on how often the run was killed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from florence.config.storage import S3Settings
from florence.curation.decide import NOBODY, Decisions, Resources, decide
from florence.curation.evaluation_sets import (
    EvaluationHashes,
    Part,
    hash_evaluation_sets,
    identity,
    open_evaluation_set,
)
from florence.curation.measure import Measured, Reason, measure_shard
from florence.curation.report import RECORD, Report, make_report
from florence.curation.settings import Curation
from florence.curation.survivors import (
    DROPPED,
    ShardDecisions,
    dropped_key,
    write_survivors,
)
from florence.data.builtin import resolve
from florence.data.draft import Draft, digest_of
from florence.data.importing.once import shards_of
from florence.data.index import SUFFIX
from florence.data.indexing import index_data
from florence.data.locations import list_shards, locate
from florence.data.manifest import NAME as MANIFEST
from florence.data.ordered_map import map_in_processes
from florence.errors import ConfigurationError, DataError
from florence.storage import Entry, Storage, open_storage

CLASSES = "classes.json"
VERSION = 1
"""A part of every digest: raise it when the same data would be curated differently."""

_MEASURED = "measured/"
_SHARDS = f"{_MEASURED}shards/"
_AGAINST = f"{_MEASURED}against/"

Progress = Callable[[str, int, int, str], None]
"""Called as (what was done, how often so far, how often in all, the shard)."""


@dataclass(frozen=True)
class _Job:
    """One curation, as worker processes get it."""

    source: Storage
    target: Storage
    settings: Curation
    s3: S3Settings | None
    device: str

    def measure(self, entry: Entry) -> str:
        """Measure a shard and keep the result."""
        score = None
        if self.settings.relevance_model is not None:
            from florence.curation.relevance import relevance_model

            score = relevance_model(self.settings.relevance_model, self.s3, self.device).score
        measured = measure_shard(self.source, entry, self.settings, score)
        self.target.write(_measured_key(entry.key), measured.to_bytes())
        return entry.key

    def write(self, decided: ShardDecisions) -> str:
        """Write what stays of a shard."""
        write_survivors(self.source, self.target, decided, annotate=self.settings.annotate)
        return decided.entry.key


@dataclass(frozen=True)
class _Load:
    """The records of a shard by its number."""

    target: Storage
    shards: tuple[str, ...]

    def __call__(self, shard: int) -> NDArray[Any]:
        return Measured.from_bytes(self.target.read(_measured_key(self.shards[shard]))).records


def curate(
    uri: str,
    out: str,
    settings: Curation,
    s3: S3Settings | None = None,
    *,
    processes: int = 1,
    memory: int = 1 << 30,
    scratch: Path | None = None,
    device: str = "cpu",
    home: Path | None = None,
    on_shard: Progress = lambda what, done, total, shard: None,
) -> Report:
    """Write the samples that pass every filter, shard by shard under the same names.

    Args:
        uri: shards, ``builtin:…``, or anything that can be imported on this machine.
        out: folder or ``s3://`` prefix; empty, or with an unfinished curation of ours.
        settings: the filters.
        s3: where ``s3://`` is.
        processes: that measure, compare and write.
        memory: bytes that each of them sorts at a time.
        scratch: folder on a local disk for what does not fit; the system's default when None.
        device: where the relevance model runs. Scores of another device may differ in the last
            digits.
        home: where imported data is kept; default ``$FLORENCE_HOME``.
        on_shard: told of every shard that was measured or written.

    Raises:
        ConfigurationError: ``out`` holds something else.
        DataError: there is no data, or nothing of it stays.
        TransientError: storage or a process gave up; the same call goes on from there.
    """
    root, only = locate(resolve(shards_of(uri, home=home, s3=s3)))
    source, target = open_storage(root, s3), open_storage(out, s3)
    if target.uri == source.uri:
        raise ConfigurationError(f"{out} is the data itself: choose another folder for the result")
    entries = list_shards(source, only)
    against = [p for name in settings.against for p in open_evaluation_set(name, s3, home)]
    draft = Draft.begin(
        target,
        digest=_digest(entries, against, settings, s3),
        record=RECORD,
        made=(".tar", SUFFIX, MANIFEST, CLASSES, RECORD, _MEASURED, DROPPED),
    )
    if draft.finished is not None:
        report = Report.from_wire(draft.finished)
    else:
        draft.save({"begun": True})
        job = _Job(source, target, settings, s3, device)
        resources = Resources(scratch or Path(tempfile.gettempdir()), processes, memory)
        report = _run(job, uri, entries, against, resources, on_shard)
        if source.size(CLASSES) is not None:
            target.write(CLASSES, source.read(CLASSES))
        for entry in target.list(_MEASURED):
            target.delete(entry.key)
        draft.finish(RECORD, report.wire())
    if not report.kept:
        most = max(report.dropped, key=lambda reason: report.dropped[reason])
        raise DataError(
            f"{uri}: no sample passes all filters: {report.dropped[most]} of {report.samples} are "
            f"dropped as '{most}': see {target.url(RECORD)} and relax that filter"
        )
    index_data(out, s3, workers=processes)
    return report


def _run(
    job: _Job,
    uri: str,
    entries: list[Entry],
    against: list[Part],
    resources: Resources,
    on_shard: Progress,
) -> Report:
    processes = resources.processes
    _measure_all(job, entries, processes, on_shard)
    evaluation = hash_evaluation_sets(
        against,
        job.target,
        _AGAINST,
        processes,
        lambda done, name: on_shard("hashed", done, len(against), name),
    )
    load = _Load(job.target, tuple(entry.key for entry in entries))
    with tempfile.TemporaryDirectory(prefix="florence-", dir=resources.scratch) as folder:
        decisions = decide(
            load,
            [len(load(shard)) for shard in range(len(entries))],
            job.settings,
            evaluation.hashes,
            replace(resources, scratch=Path(folder)),
        )
        names = _Names(entries, decisions, evaluation)
        pending = [n for n, e in enumerate(entries) if not _is_written(job.target, e)]
        decided = (_decided(load, decisions, names, n, entries[n]) for n in pending)
        done = len(entries) - len(pending)
        for number, shard in enumerate(map_in_processes(job.write, decided, processes), done + 1):
            on_shard("written", number, len(entries), shard)
        return make_report(
            uri,
            job.target,
            entries,
            decisions,
            unreadable=evaluation.broken,
            settings=job.settings.wire(),
        )


def _decided(
    load: _Load, decisions: Decisions, names: _Names, shard: int, entry: Entry
) -> ShardDecisions:
    reasons, others = decisions.of_shard(shard)
    told = tuple(
        names.of(Reason(reason), other)
        for reason, other in zip(reasons.tolist(), others.tolist(), strict=True)
    )
    return ShardDecisions(entry, load(shard), reasons, told)


class _Names:
    """What people call a sample or an evaluation image that is known by its number."""

    def __init__(
        self, entries: list[Entry], decisions: Decisions, evaluation: EvaluationHashes
    ) -> None:
        self._shards = [entry.key for entry in entries]
        self._starts = decisions.starts
        self._evaluation = evaluation

    def of(self, reason: Reason, number: int) -> str:
        """The name; "" for nobody's number."""
        if number == NOBODY:
            return ""
        if reason is Reason.EVALUATION:
            return self._evaluation.name(number)
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return f"{self._shards[shard]} row {number - int(self._starts[shard])}"


def _is_written(target: Storage, entry: Entry) -> bool:
    return target.size(dropped_key(entry.key)) is not None


def _measure_all(job: _Job, entries: list[Entry], processes: int, on_shard: Progress) -> None:
    known = {entry.key for entry in job.target.list(_SHARDS)}
    pending = [entry for entry in entries if _measured_key(entry.key) not in known]
    done = len(entries) - len(pending)
    for number, shard in enumerate(map_in_processes(job.measure, pending, processes), done + 1):
        on_shard("measured", number, len(entries), shard)


def _digest(
    entries: list[Entry], against: list[Part], settings: Curation, s3: S3Settings | None
) -> str:
    model: list[list[object]] = []
    if settings.relevance_model is not None:
        from florence.curation.relevance import model_identity

        model = model_identity(settings.relevance_model, s3)
    data = [[entry.key, entry.size, entry.modified] for entry in entries]
    return digest_of(VERSION, settings.wire(), data, identity(against), model)


def _measured_key(shard: str) -> str:
    return f"{_SHARDS}{shard}.npy"

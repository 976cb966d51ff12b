"""Fields of the status under the names that the release before this one gave them.

Both names are written for one release: whoever goes back to that operator finds what it knows, and
what it wrote meanwhile is read here. It keeps fields that it does not know as they were, so where
any of its own names is there, they are the newer word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JOB = {"startTime": "started", "completionTime": "ended"}
STAGE = {"nextAttemptTime": "nextAttempt", "firstCountedAttempt": "budgetFrom"}
ATTEMPT = {
    "startTime": "started",
    "admissionTime": "admitted",
    "podsReadyTime": "running",
    "lastProgressTime": "progressed",
    "lastCheckpointTime": "committed",
    "completionTime": "ended",
}
CHILD = "child"
"""Of an attempt: the name in ``jobRef``; what bore it was a PyTorchJob."""
_CHILD_KIND = "PyTorchJob"


def read(document: Any, renamed: Mapping[str, str]) -> Any:
    """The fields of a stored object under their names of today."""
    if not isinstance(document, Mapping):
        return document
    fields = dict(document)
    old = {new: fields.pop(name) for new, name in renamed.items() if name in fields}
    if old:
        for name in renamed:
            fields.pop(name, None)
    fields |= old
    if CHILD in fields and renamed is ATTEMPT:
        name, known = fields.pop(CHILD), fields.get("jobRef")
        same = isinstance(known, Mapping) and known.get("name") == name
        made = {"kind": _CHILD_KIND, "name": name} if name else None
        fields["jobRef"] = known if same else made
    return fields


def written(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status as it is stored: with the old names beside those of today."""
    stages = [_stage(stage) for stage in status.get("stages", ())]
    return {**_both(status, JOB), "stages": stages}


def _stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    fields = _both(stage, STAGE)
    if "attempts" in stage:
        fields["attempts"] = [_attempt(attempt) for attempt in stage["attempts"]]
    return fields


def _both(document: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    old = {name: document[new] for new, name in renamed.items() if new in document}
    return {**document, **old}


def _attempt(attempt: Mapping[str, Any]) -> dict[str, Any]:
    child = {CHILD: attempt["jobRef"]["name"]} if "jobRef" in attempt else {}
    return {**_both(attempt, ATTEMPT), **child}

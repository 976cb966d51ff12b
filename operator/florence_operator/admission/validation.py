"""Admission of FlorenceJobs: what the CRD cannot say, each refusal with the path of its field."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from florence_operator.admission.memory_check import memory_findings
from florence_operator.admission.policy import policy_problems
from florence_operator.api.changes import refused_changes
from florence_operator.api.child_kinds import CHILD_KINDS
from florence_operator.api.crd import MOST_ITEMS
from florence_operator.api.manifest import from_cluster
from florence_operator.api.problems import problems, with_name
from florence_operator.api.status import JobStatus
from florence_operator.api.v1alpha1 import FlorenceJob
from florence_operator.settings import OperatorConfiguration

_SURROGATE = re.compile("[\ud800-\udfff]")
_LARGEST_INTEGER = 2**63 - 1
_DEEPEST = 64
_MOST_PROBLEMS = 20
_LONGEST_PROBLEM = 600
_PLANNING_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Validation:
    """Whether an object is taken; when it is not, every reason, with its field's path first."""

    allowed: bool
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def code(self) -> int:
        """The HTTP status that the API server gives the user."""
        return 200 if self.allowed else 422

    @property
    def message(self) -> str:
        """The first problems on one line."""
        shown = [problem[:_LONGEST_PROBLEM] for problem in self.problems[:_MOST_PROBLEMS]]
        if len(self.problems) > len(shown):
            shown.append(f"… and {len(self.problems) - len(shown)} more")
        return "; ".join(shown)


def validate(
    request: Mapping[str, Any],
    settings: OperatorConfiguration,
    *,
    served: Sequence[str] = tuple(CHILD_KINDS),
    clock: Callable[[], float] = time.monotonic,
) -> Validation:
    """Whether the object of an AdmissionReview's request may be stored.

    Deletions, status writes and changes that leave the spec alone are never refused. Of a change,
    only what it brings is held against it: a job that was taken under other settings of the
    operator can still be suspended. ``served`` are the kinds of children that the cluster takes.
    """
    until = clock() + _PLANNING_SECONDS
    if request.get("operation") not in ("CREATE", "UPDATE") or request.get("subResource"):
        return Validation(True)
    new, old = request.get("object"), request.get("oldObject")
    if not isinstance(new, dict):
        return Validation(False, ("object: must be a FlorenceJob",))
    if isinstance(old, dict) and ("spec" in old and _equal(new.get("spec"), old["spec"])):
        return Validation(True)
    if impossible := _impossible_in(new):
        return Validation(False, tuple(impossible))
    job = _parsed(new)
    if isinstance(job, list):
        return Validation(False, tuple(job))
    memory = memory_findings(job, lambda: clock() >= until)
    found = [*policy_problems(job, settings), *_backend(job, served), *memory.problems]
    if request["operation"] == "UPDATE" and isinstance(old, dict):
        before = [] if _impossible_in(old) else _parsed(old)
        if isinstance(before, FlorenceJob):
            known = memory_findings(before, lambda: clock() >= until)
            # What there was no time to find before is not held against the change.
            excused = {*policy_problems(before, settings), *known.problems}
            excused |= {*_backend(before, served)}
            excused |= set() if known.complete else set(memory.problems)
            found = [problem for problem in found if problem not in excused]
            found = [*refused_changes(before, job), *found]
    if found:
        return Validation(False, tuple(found))
    return Validation(True, warnings=(*memory.warnings, *_untracked(job, settings)))


def _backend(job: FlorenceJob, served: Sequence[str]) -> Iterator[str]:
    wanted = job.spec.run_policy.backend
    if wanted not in ("auto", *served):
        there = " and ".join(served) or "neither kind"
        yield (
            f"spec.runPolicy.backend: the cluster does not serve {wanted}s; it serves {there}: "
            "choose auto, or have it installed"
        )


def _untracked(job: FlorenceJob, settings: OperatorConfiguration) -> Iterator[str]:
    if not (job.spec.tracking.mlflow_uri or settings.defaults.mlflow_uri):
        yield (
            "spec.tracking.mlflowUri: none here and none in the operator's settings: metrics are "
            "kept in the artifacts only"
        )


def _parsed(document: dict[str, Any]) -> FlorenceJob | list[str]:
    """The job in a document, or what is wrong with it."""
    if not isinstance(document.get("metadata", {}), dict):
        return ["metadata: must be a mapping"]
    # The status is the operator's own; what somebody else wrote into it is no reason to refuse.
    parts = {key: value for key, value in document.items() if key != "status"}
    try:
        job = from_cluster(parts)
    except ValidationError as error:
        return problems(error, model=FlorenceJob)
    try:
        status = JobStatus.model_validate(document.get("status") or {})
    except ValidationError:
        return job
    return job.model_copy(update={"status": status})


def _impossible_in(document: dict[str, Any]) -> list[str]:
    """What no parser should see of a document; its status is nobody's wish."""
    parts = {str(key): value for key, value in document.items() if key != "status"}
    return [line for key, value in parts.items() for line in _impossible(value, with_name("", key))]


def _impossible(value: Any, path: str, depth: int = 0) -> Iterator[str]:
    """What no API server sends, whose schema bounds it, and that would break what reads it."""
    if depth > _DEEPEST:
        yield f"{path[:200]}: is nested too deeply"
    elif isinstance(value, dict | list) and len(value) > MOST_ITEMS and path.startswith("spec"):
        # Some of what is asked of a spec takes longer than in proportion to its lists.
        yield f"{path[:200]}: has more than {MOST_ITEMS} entries"
    elif isinstance(value, dict):
        for key, inner in value.items():
            name = with_name(path, str(key))
            yield from _impossible(str(key), name, depth + 1)
            yield from _impossible(inner, name, depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _impossible(inner, f"{path}[{index}]", depth + 1)
    elif isinstance(value, str) and _SURROGATE.search(value):
        yield f"{path}: is not valid text"
    elif isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        yield f"{path}: is larger than any number that is stored"


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except RecursionError:
        return False

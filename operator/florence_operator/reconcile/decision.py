"""What one look at a job leads to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from florence_operator.api.status import JobStatus
from florence_operator.observe.observation import Observation, Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """An object to delete; with a uid only that very one."""

    kind: str
    """FlorenceJob, Pod, the kind of a child, or of what its pods may leave."""
    name: str
    uid: str | None = None
    child: str | None = None
    """Of what is left of one: the child that it was made for; what has an owner is not meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """An event to record about the job."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The objects of an attempt, in the order in which they are made."""

    stage: str
    documents: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be done, in this order: finalizers, apply, status, delete, events.

    Nothing of it is, while there are questions: their answers lead to another decision.
    """

    status: JobStatus
    questions: frozenset[Question] = frozenset()
    changed: bool = False
    """Whether the status differs from the one that was observed."""
    urgent: bool = False
    """Whether more than progress and wording differ."""
    finalizers: tuple[str, ...] | None = None
    """The finalizers that the job is to have; None leaves them."""
    starts: tuple[Start, ...] = ()
    apply: tuple[Mapping[str, Any], ...] = ()
    """Objects that belong to no attempt."""
    delete: tuple[Deletion, ...] = ()
    events: tuple[Notice, ...] = ()
    requeue_after: float | None = None


@dataclass(slots=True)
class Work:
    """Collects what the stages of one job need while they are looked at."""

    now: float
    starts: list[Start] = field(default_factory=list)
    events: list[Notice] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    questions: set[Question] = field(default_factory=set)

    def ask(self, seen: Observation, *questions: Question) -> bool:
        """Whether the API server has been asked all of it; what it has not, it is asked next."""
        missing = set(questions) - seen.answered
        self.questions.update(missing)
        return not missing

    def wake(self, moment: float) -> None:
        """The job has to be looked at again at that time."""
        self.moments.append(moment)

    def tell(self, reason: str, message: str, *, action: str, warning: bool = False) -> None:
        """Record an event."""
        kind: Literal["Normal", "Warning"] = "Warning" if warning else "Normal"
        self.events.append(Notice(type=kind, reason=reason, message=message, action=action))

    @property
    def requeue_after(self) -> float | None:
        """Seconds until the earliest of the moments."""
        return max(0.0, min(self.moments) - self.now) if self.moments else None

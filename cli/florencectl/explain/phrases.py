"""Small phrases that the explanations are made of."""

from __future__ import annotations

from florence_operator.api.attempt_pods import Pod
from florence_operator.api.child_kinds import CHILD_KINDS
from florence_operator.api.status import Attempt, StageStatus
from florence_operator.api.times import unix
from florencectl.explain.snapshot import Snapshot
from florencectl.run_display import duration


def last_attempt(stage: StageStatus) -> Attempt | None:
    """The newest attempt."""
    return stage.attempts[-1] if stage.attempts else None


def child_of(attempt: Attempt) -> str:
    """``PyTorchJob 'x'``."""
    child = attempt.job_ref
    return f"{child.kind} '{child.name}'" if child is not None else "its child"


def maker_of(attempt: Attempt) -> str:
    """Who makes the pods of an attempt's child."""
    kind = CHILD_KINDS.get(attempt.job_ref.kind) if attempt.job_ref is not None else None
    return kind.controller if kind is not None else "Its controller"


def names(pods: list[Pod]) -> str:
    """``pod x``, or ``pods x, y, z and 5 more``."""
    shown = ", ".join(pod.name for pod in pods[:3])
    noun = "pod" if len(pods) == 1 else "pods"
    return f"{noun} {shown}" + (f" and {len(pods) - 3} more" if len(pods) > 3 else "")


def since(timestamp: str | None, facts: Snapshot) -> str:
    """How long that is ago."""
    return duration(facts.now - (unix(timestamp) or facts.now))


def ago(timestamp: str | None, facts: Snapshot) -> str:
    """``5m00s ago``."""
    return f"{since(timestamp, facts)} ago"


def until(timestamp: str, facts: Snapshot) -> str:
    """``in 5m00s``, or ``now``."""
    left = (unix(timestamp) or facts.now) - facts.now
    return f"in {duration(left)}" if left > 0 else "now"


def sentence(text: str | None) -> str:
    """A message as a sentence; empty for none."""
    return f"{capital(text.strip().rstrip('.'))}." if text and text.strip() else ""


def capital(text: str) -> str:
    """The text with a capital letter first."""
    return text[:1].upper() + text[1:]

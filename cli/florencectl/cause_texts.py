"""What a cause of a failure means to a user, and what to do about it, as sentences."""

from __future__ import annotations

from florence_operator.api.cause_texts import CAUSE_TEXTS
from florence_operator.api.failure import Cause
from florence_operator.api.status import Attempt

_NEWER = (
    "install this program in the operator's version, which knows it; '{program} retry {job}' runs "
    "it again from its last checkpoint"
)


def happened(attempt: Attempt) -> str:
    """What ended an attempt: ``attempt 2 ran out of memory and was killed (pod x, node n, …)``."""
    if attempt.cause is None:
        done = "succeeded" if attempt.exit_code == 0 else "ended"
        return f"attempt {attempt.number} {done}"
    where = [
        f"pod {attempt.pod}" if attempt.pod else "",
        f"node {attempt.node}" if attempt.node else "",
        f"exit code {attempt.exit_code}" if attempt.exit_code is not None else "",
    ]
    evidence = ", ".join(filter(None, where))
    known = CAUSE_TEXTS.get(attempt.cause)
    ended = known.happened if known else f"ended ({attempt.cause.value})"
    text = f"attempt {attempt.number} {ended}"
    if evidence:
        text += f" ({evidence})"
    return f"{text}: {attempt.message.strip().rstrip('.')}" if attempt.message else text


def remedy(cause: Cause, job: str, program: str) -> str:
    """What a user can do about a cause."""
    known = CAUSE_TEXTS.get(cause)
    return (known.remedy if known else _NEWER).format(job=job, program=program)

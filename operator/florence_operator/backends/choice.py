"""Of which kind the next child of a job is."""

from __future__ import annotations

from dataclasses import dataclass

from florence_operator.api.child_kinds import PYTORCH_JOB
from florence_operator.api.run_policy import RunPolicy

AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What children this cluster takes, as far as this replica follows them."""

    served: tuple[str, ...] = (PYTORCH_JOB.name,)
    """The kinds, in the order in which they are chosen."""
    unqueued: frozenset[str] = frozenset()
    """Those that Kueue takes no notice of: with a queue they would start all the same."""


def chosen(policy: RunPolicy, fixed: str, installed: Installed) -> str:
    """The kind of a job's next child; it may be one that is not served.

    Args:
        fixed: what the operator's settings say, which all jobs have to follow, or ``auto``.
    """
    wanted = policy.backend if fixed == AUTO else fixed
    if wanted == AUTO and policy.backend_needed:
        return policy.backend_needed
    if wanted != AUTO:
        return wanted
    fit = [kind for kind in installed.served if not (policy.queue and kind in installed.unqueued)]
    return next(iter(fit or installed.served), PYTORCH_JOB.name)

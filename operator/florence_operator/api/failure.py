"""Why attempts end, and whose fault that is: the words that status, events and metrics share."""

from __future__ import annotations

from enum import StrEnum

from florence_operator.api.open_enum import OpenEnum


class Cause(OpenEnum):
    """Why an attempt ended without success."""

    INVALID_CONFIGURATION = "InvalidConfiguration"
    UNUSABLE_DATA = "UnusableData"
    DIVERGED = "Diverged"
    PROGRAM_FAILED = "ProgramFailed"
    OUT_OF_MEMORY = "OutOfMemory"
    TRY_AGAIN = "TryAgain"
    KILLED = "Killed"
    STOPPED = "Stopped"
    EVICTED = "Evicted"
    NODE_LOST = "NodeLost"
    POD_DELETED = "PodDeleted"
    CHILD_DELETED = "ChildDeleted"
    STALLED = "Stalled"
    NOT_HEARD = "NotHeard"
    PREEMPTED = "Preempted"
    PODS_READY_TIMEOUT = "PodsReadyTimeout"
    MAXIMUM_EXECUTION_TIME = "MaximumExecutionTimeExceeded"
    SUSPENDED = "Suspended"
    IMAGE_PULL = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    START_DEADLINE = "StartDeadlineExceeded"
    DEADLINE = "DeadlineExceeded"
    REJECTED = "Rejected"


class Budget(StrEnum):
    """What an attempt's end is charged to."""

    APPLICATION = "application"
    INFRASTRUCTURE = "infrastructure"
    FREE = "free"
    """Repeated at no cost: nobody did anything wrong."""
    FINAL = "final"
    """Never repeated: the same would happen again."""


_BY_EXIT_CODE = {
    2: Cause.INVALID_CONFIGURATION,
    3: Cause.UNUSABLE_DATA,
    4: Cause.DIVERGED,
    75: Cause.TRY_AGAIN,
    137: Cause.KILLED,
    143: Cause.STOPPED,
}

_BUDGETS = {
    Cause.INVALID_CONFIGURATION: Budget.FINAL,
    Cause.UNUSABLE_DATA: Budget.FINAL,
    Cause.DIVERGED: Budget.FINAL,
    Cause.IMAGE_PULL: Budget.FINAL,
    Cause.UNSCHEDULABLE: Budget.FINAL,
    Cause.START_DEADLINE: Budget.FINAL,
    Cause.DEADLINE: Budget.FINAL,
    Cause.MAXIMUM_EXECUTION_TIME: Budget.FINAL,
    Cause.REJECTED: Budget.FINAL,
    Cause.PROGRAM_FAILED: Budget.APPLICATION,
    Cause.OUT_OF_MEMORY: Budget.APPLICATION,
    Cause.PREEMPTED: Budget.FREE,
    Cause.SUSPENDED: Budget.FREE,
}


def cause_of_exit(code: int) -> Cause | None:
    """The cause that a stage's exit code stands for (:mod:`florence.errors`); None for success."""
    return None if code == 0 else _BY_EXIT_CODE.get(code, Cause.PROGRAM_FAILED)


def budget_of(cause: Cause) -> Budget:
    """What an attempt that ended for ``cause`` is charged to.

    A cause that only another version knows counts as the infrastructure's: it is repeated, and not
    for ever.
    """
    return _BUDGETS.get(cause, Budget.INFRASTRUCTURE)

"""What became of a job whose run ended without a word: its record says what was true before."""

from __future__ import annotations

from florence_operator.api import FlorenceJob, StageStatus, State
from florence_operator.api.failure import Cause

REASON = "Interrupted"
"""Reason of a stage whose run is gone."""

_IN_MOTION = (State.QUEUED, State.STARTING, State.RUNNING, State.STALLED, State.RECOVERING)


def in_motion(job: FlorenceJob) -> bool:
    """Whether the record says that somebody runs the job."""
    return job.status is not None and job.status.phase in _IN_MOTION


def interrupted(job: FlorenceJob, *, owner: int | None, ended: str) -> FlorenceJob:
    """The job with what is known now that nobody runs it; unchanged unless it was in motion.

    Args:
        owner: the process that ran it.
        ended: when it last gave a sign of life.
    """
    if job.status is None or not in_motion(job):
        return job
    who = f"the process that ran it ({owner})" if owner else "the process that ran it"
    message = f"{who} is gone: it was killed, or the machine went down"
    stages = list(job.status.stages)
    current = next((i for i, s in enumerate(stages) if s.state is not State.SUCCEEDED), None)
    if current is not None:
        stages[current] = _interrupted(stages[current], message, ended)
    status = job.status.model_copy(
        update={"phase": State.FAILED, "completion_time": ended, "stages": tuple(stages)}
    )
    return job.model_copy(update={"status": status})


def _interrupted(stage: StageStatus, message: str, ended: str) -> StageStatus:
    attempts = stage.attempts
    if attempts and not attempts[-1].completion_time:
        update = {"completion_time": ended, "cause": Cause.KILLED, "message": message}
        attempts = (*attempts[:-1], attempts[-1].model_copy(update=update))
    return stage.model_copy(
        update={
            "state": State.FAILED,
            "reason": REASON,
            "message": message,
            "attempts": attempts,
            "next_attempt_time": None,
        }
    )

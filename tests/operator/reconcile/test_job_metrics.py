from __future__ import annotations

from itertools import pairwise
from typing import Any

from prometheus_client import CollectorRegistry

from florence_operator.api.failure import Cause
from florence_operator.api.status import Attempt, JobStatus, StageStatus, State
from florence_operator.reconcile.job_metrics import account, stages_by_state, stages_not_heard
from florence_operator.runtime.metrics import Metrics
from florence_operator.runtime.store import Key

KEY = Key("vision", "job")
THEN, LATER = "2026-11-23T10:00:00Z", "2026-11-23T11:00:00Z"


def status(state: State, *attempts: Attempt) -> JobStatus:
    return JobStatus(stages=(StageStatus(name="mixed", state=state, attempts=attempts),))


def ended(number: int, cause: Cause | None) -> Attempt:
    return Attempt(
        number=number,
        started=THEN,
        ended=LATER,
        cause=cause,
        gpu_seconds=80.0,
        lost_gpu_seconds=20.0 if cause else 0.0,
        queued_seconds=30.0,
    )


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_each_ended_attempt_is_counted_once() -> None:
    metrics = Metrics(CollectorRegistry())
    first = status(State.RUNNING, Attempt(number=1, start_time=THEN))
    second = status(State.RECOVERING, ended(1, Cause.NODE_LOST))
    third = status(State.RUNNING, ended(1, Cause.NODE_LOST), Attempt(number=2, start_time=THEN))
    fourth = status(State.SUCCEEDED, ended(1, Cause.NODE_LOST), ended(2, None))
    steps = [JobStatus(), first, second, third, fourth, fourth]
    for old, new in pairwise(steps):
        account(metrics, KEY, old, new)
    assert value(metrics, "florence_attempts_total", cause="NodeLost") == 1
    assert value(metrics, "florence_attempts_total", cause="Succeeded") == 1
    assert value(metrics, "florence_gpu_seconds_used_total") == 160
    assert value(metrics, "florence_gpu_seconds_lost_total") == 20
    assert value(metrics, "florence_queued_seconds_count") == 2


def test_a_checkpoint_ages_only_while_its_attempt_goes_on() -> None:
    metrics = Metrics(CollectorRegistry(), clock=lambda: 1_795_430_000.0)
    going = status(State.RUNNING, Attempt(number=1, start_time=THEN, last_checkpoint_time=LATER))
    account(metrics, KEY, JobStatus(), going)
    labels = {"namespace": "vision", "job": "job"}
    age = value(metrics, "florence_checkpoint_age_seconds", **labels)
    assert age == 1_795_430_000.0 - 1_795_431_600.0
    account(metrics, KEY, going, status(State.SUCCEEDED, ended(1, None)))
    assert value(metrics, "florence_checkpoint_age_seconds", **labels) is None


def test_stages_of_all_jobs_are_counted_by_state() -> None:
    def job(*states: str) -> dict[str, Any]:
        return {"status": {"stages": [{"name": "s", "state": state} for state in states]}}

    counted = stages_by_state([job("Running", "Pending"), job("Running"), {}, {"status": {}}])
    assert counted == {"Running": 2, "Pending": 1}


def test_stages_that_are_not_heard_are_counted() -> None:
    def job(*said: str) -> dict[str, Any]:
        conditions = [{"type": "ProgressReported", "status": status} for status in said]
        return {"status": {"stages": [{"name": "s", "conditions": conditions}, {"name": "t"}]}}

    assert stages_not_heard([job("False"), job("True"), job(), {}, {"status": None}]) == 1

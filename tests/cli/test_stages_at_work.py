"""The rows of ``florencectl top``."""

from __future__ import annotations

from florence.config.progress import StageProgress
from florence_operator.api import JobStatus, StageStatus, State
from florence_operator.api.status import Attempt, JobReference
from florence_operator.api.times import timestamp
from florencectl.stages_at_work import COLUMNS, JobAtWork, documents, rows

NOW = 1_790_000_000.0
PROGRESS = StageProgress(
    step=120,
    total=600,
    loss=1.23456,
    samples_per_second=410.4,
    data_wait=0.031,
    memory_bytes=3 << 30,
    eta_seconds=130,
    checkpoint_step=100,
)


def job(*stages: StageStatus) -> JobAtWork:
    return JobAtWork("team", "big", JobStatus(phase=State.RUNNING, stages=stages))


def test_a_stage_at_work_shows_its_numbers() -> None:
    going = Attempt(
        number=1,
        job_ref=JobReference(kind="PyTorchJob", name="c"),
        start_time=timestamp(NOW - 400),
        admission_time=timestamp(NOW - 400),
        pods_ready_time=timestamp(NOW - 300),
        step=120,
    )
    running = StageStatus(name="mixed", state=State.RUNNING, progress=PROGRESS, attempts=(going,))
    (row,) = rows([job(running)], NOW)
    assert [row[column] for column in COLUMNS] == [
        "big",
        "mixed",
        "Running",
        "train",
        "120/600 (20%)",
        "1.2346",
        "410",
        "3%",
        "3.0 GiB",
        "2m10s",
        "step 100",
        "75%",
    ]


def test_only_what_is_at_work_is_shown_and_what_is_unknown_is_left_out() -> None:
    stages = [StageStatus(name=state.value.lower(), state=state) for state in State]
    seen = rows([job(*stages)], NOW)
    assert [row["stage"] for row in seen] == [
        "queued",
        "starting",
        "running",
        "stalled",
        "recovering",
    ]
    assert all(row["step"] is None and row["loss"] is None for row in seen)


def test_a_new_attempt_does_not_show_the_numbers_of_the_last() -> None:
    starting = StageStatus(name="mixed", state=State.STARTING, progress=PROGRESS)
    (row,) = rows([job(starting)], NOW)
    assert row["step"] is None
    assert row["state"] == "Starting"


def test_programs_get_numbers() -> None:
    running = StageStatus(
        name="mixed", state=State.RUNNING, progress=PROGRESS, attempts=(Attempt(number=2),)
    )
    (document,) = documents([job(running)], NOW)
    assert document["attempt"] == 2
    assert document["progress"]["samplesPerSecond"] == 410.4
    assert document["goodput"]["dataStall"] == 0
    assert document["goodput"]["until"] == timestamp(NOW)
    assert document["progress"]["memoryBytes"] == 3 << 30

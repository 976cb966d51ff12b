"""What a FlorenceJob tells about itself."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler, field_validator

from florence.config.base import setting
from florence.config.progress import PhaseSeconds, StageProgress
from florence_operator.api import old_names
from florence_operator.api.failure import Cause
from florence_operator.api.goodput import Goodput
from florence_operator.api.observed import Observed
from florence_operator.api.open_enum import OpenEnum
from florence_operator.api.ranks import RankGroup

PROGRESS_REPORTED = "ProgressReported"
"""Condition of a stage at work: False while its pods run and nothing is heard of them."""


class State(OpenEnum):
    """Where a job or one of its stages stands."""

    PENDING = "Pending"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    STALLED = "Stalled"
    RECOVERING = "Recovering"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUSPENDED = "Suspended"

    @property
    def terminal(self) -> bool:
        """Whether the state is the last one."""
        return self in (State.SUCCEEDED, State.FAILED)


class Condition(Observed):
    """One observation of a job or a stage, in Kubernetes' form."""

    type: str = setting(description="what is observed")
    status: str = setting(description="True, False or Unknown")
    reason: str = setting(description="a word for programs")
    message: str = setting("", description="a sentence for people")
    last_transition_time: str = setting(description="when the status last changed")
    observed_generation: int = setting(0, description="generation of the spec that was observed")


class JobReference(Observed):
    """The child of an attempt."""

    kind: str = setting(description="PyTorchJob or TrainJob")
    name: str = setting(description="its name, in the namespace of the FlorenceJob")
    uid: str | None = setting(None, description="its uid, once it has been seen")


class Attempt(Observed):
    """One try of a stage by a whole gang."""

    renamed = old_names.ATTEMPT
    number: int = setting(description="1 for the first", ge=1)
    job_ref: JobReference | None = setting(None, description="its child, on a cluster")
    start_time: str | None = setting(None, description="when the attempt was started")
    admission_time: str | None = setting(
        None, description="when its queue let it go, or when it started where there is none"
    )
    pods_ready_time: str | None = setting(None, description="when all of its pods ran")
    last_progress_time: str | None = setting(
        None, description="when it was last seen to get further"
    )
    last_checkpoint_time: str | None = setting(
        None, description="when its newest checkpoint was told of"
    )
    stopping: Cause | None = setting(
        None, description="why it is being stopped; it ends when its pods are gone"
    )
    completion_time: str | None = setting(None, description="when it ended")
    exit_code: int | None = setting(
        None, description="exit code of the first process that failed, or 0"
    )
    cause: Cause | None = setting(None, description="why it ended without success")
    pod: str | None = setting(None, description="the pod that failed first")
    node: str | None = setting(None, description="the node of that pod")
    strike: str | None = setting(
        None,
        description="why its end counts against that node: NodeLost, NodePressure, Device or "
        "PodStuck",
    )
    avoided_nodes: tuple[str, ...] = setting(
        (), description="nodes that its pods keep away from for their strikes"
    )
    message: str | None = setting(None, description="the line that said so")
    last_lines: tuple[str, ...] = setting((), description="the last lines of that pod's log")
    restored_step: int | None = setting(
        None, description="step of the checkpoint that it started from", unit="steps"
    )
    step: int | None = setting(None, description="last step that it told of", unit="steps")
    seconds: PhaseSeconds | None = setting(
        None, description="what its first rank's time went into, as it told"
    )
    suspended_seconds: float = setting(
        0.0,
        description="time before it in which nobody wanted the stage to run",
        unit="seconds",
    )
    queued_seconds: float = setting(
        0.0, description="time that it waited in a queue", unit="seconds"
    )
    gpu_seconds: float = setting(0.0, description="GPUs times time that it ran", unit="GPU seconds")
    lost_gpu_seconds: float = setting(
        0.0,
        description="the part of it after the last checkpoint of a failed attempt",
        unit="GPU seconds",
    )
    logs: str | None = setting(None, description="where its logs are kept")
    ranks: tuple[RankGroup, ...] = setting(
        (), description="while it is being stopped: where ranks are that have not stopped as asked"
    )

    @property
    def child(self) -> str | None:
        """The name of its child, on a cluster."""
        return self.job_ref.name if self.job_ref else None


class DroppedAttempts(Observed):
    """What is left of a stage's oldest attempts, which its record no longer has."""

    number: int = setting(description="number of the last of them", ge=0)
    start_time: str | None = setting(None, description="when the first of them was started")
    completion_time: str | None = setting(None, description="when the last of them ended")
    causes: dict[str, int] = setting({}, description="how many ended for each cause")
    charged: dict[str, int] = setting({}, description="how many each budget has paid for")
    goodput: Goodput = setting(Goodput(), description="what their time went into")
    gpu_seconds: float = setting(
        0.0, description="GPUs times time that they ran", unit="GPU seconds"
    )
    lost_gpu_seconds: float = setting(
        0.0, description="the part of it after their last checkpoints", unit="GPU seconds"
    )


class StageStatus(Observed):
    """What happened to one stage."""

    renamed = old_names.STAGE
    name: str = setting(description="name of the stage")
    state: State = setting(State.PENDING, description="where it stands")
    reason: str | None = setting(None, description="a word for programs: why it stands there")
    message: str | None = setting(None, description="a sentence for people: why it stands there")
    conditions: tuple[Condition, ...] = setting(
        (), description="observations of the attempt at work, one a type"
    )
    attempts: tuple[Attempt, ...] = setting((), description="the newest 50 tries, oldest first")
    dropped: DroppedAttempts | None = setting(None, description="sums of the tries before them")
    goodput: Goodput | None = setting(
        None, description="what the time since the first attempt's start went into"
    )
    suspended_time: str | None = setting(
        None, description="since when nobody wants the stage to run"
    )
    suspended_seconds: float = setting(
        0.0,
        description="such time before that, since the last attempt ended",
        unit="seconds",
    )
    first_counted_attempt: int = setting(
        1, description="number of the first attempt that counts against the budgets", ge=1
    )
    next_attempt_time: str | None = setting(None, description="when it is tried again")
    progress: StageProgress | None = setting(None, description="how far the current attempt is")
    model: str | None = setting(None, description="URI of the final model")
    mlflow_run: str | None = setting(None, description="id of the stage's MLflow run")
    metrics: dict[str, float] = setting({}, description="results")

    @property
    def last_number(self) -> int:
        """The number of the newest attempt, 0 before the first: how many there have been."""
        return self.attempts[-1].number if self.attempts else 0

    @field_validator("progress", mode="wrap")
    @classmethod
    def _unreadable_progress_is_none(
        cls, value: Any, handler: ValidatorFunctionWrapHandler
    ) -> StageProgress | None:
        """The next report tells it again; the rest of the status must not hang on it."""
        try:
            known: StageProgress | None = handler(value)
        except ValidationError:
            return None
        return known


class Summary(Observed):
    """The columns of ``kubectl get florencejobs``."""

    stage: str | None = setting(None, description="the stages at work")
    progress: str | None = setting(None, description="steps done of all stages, in percent")
    eta: str | None = setting(None, description="time left of the stages at work")
    loss: str | None = setting(None, description="newest loss")
    attempts: int = setting(0, description="attempts of all stages")
    gpus: int = setting(0, description="GPUs held now", unit="GPUs")
    gpu_hours: str = setting("0", description="GPU-hours used so far", unit="GPU hours")
    checkpoint: str | None = setting(None, description="newest commit")
    goodput: str | None = setting(
        None, description="productive part of the time for which resources were held, in percent"
    )


class JobStatus(Observed):
    """What happened to the job."""

    renamed = old_names.JOB
    observed_generation: int | None = setting(
        None, description="generation of the spec that this status is of"
    )
    phase: State = setting(
        State.PENDING, description="where the job stands, derived from its stages"
    )
    conditions: tuple[Condition, ...] = setting((), description="observations, one a type")
    summary: Summary = setting(Summary(), description="the columns of kubectl get")
    stages: tuple[StageStatus, ...] = setting((), description="each stage")
    start_time: str | None = setting(None, description="when the first stage started")
    completion_time: str | None = setting(None, description="when the last stage ended")
    idle_seconds: float = setting(
        0.0,
        description="time since the start that the whole job was queued or suspended, which its "
        "deadline does not count",
        unit="seconds",
    )
    goodput: Goodput | None = setting(
        None, description="what the stages' time went into, summed over them"
    )
    retry: int = setting(0, description="the request to retry that was honoured last", ge=0)

    def stage(self, name: str) -> StageStatus:
        """The status of a stage; a fresh one when nothing is known of it."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        return StageStatus(name=name)

    def stored(self) -> dict[str, Any]:
        """The status as it is written: without what is as it is by default, but for the states.

        Renamed fields are there under both names (:mod:`florence_operator.api.old_names`).
        """
        document = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        stages = [
            {**stage, "state": status.state.value}
            for stage, status in zip(document.get("stages", ()), self.stages, strict=False)
        ]
        summary = self.summary.wire()
        document = old_names.written({**document, "stages": stages})
        return {**document, "phase": self.phase.value, "summary": summary}

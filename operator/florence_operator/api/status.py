"""What a FlorenceJob tells about itself."""

from __future__ import annotations

from enum import StrEnum

from florence.config.base import Settings, setting


class State(StrEnum):
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


class Condition(Settings):
    """One observation of the job, in Kubernetes' form."""

    type: str = setting(description="what is observed")
    status: str = setting(description="True, False or Unknown")
    reason: str = setting(description="a word for programs")
    message: str = setting("", description="a sentence for people")
    last_transition_time: str = setting(description="when the status last changed")
    observed_generation: int = setting(0, description="generation of the spec that was observed")


class Attempt(Settings):
    """One try of a stage by a whole gang."""

    number: int = setting(description="1 for the first", ge=1)
    child: str | None = setting(None, description="name of the PyTorchJob, on a cluster")
    started: str | None = setting(None, description="when the attempt was started")
    ended: str | None = setting(None, description="when it ended")
    exit_code: int | None = setting(
        None, description="exit code of the first process that failed, or 0"
    )
    cause: str | None = setting(None, description="why it failed")
    message: str | None = setting(None, description="the line that said so")
    restored_step: int | None = setting(
        None, description="step of the checkpoint that it started from", unit="steps"
    )
    logs: str | None = setting(None, description="where its logs are kept")


class Progress(Settings):
    """How far a stage is."""

    phase: str = setting(
        "train", description="what it does: start, restore, train, checkpoint, evaluate, export"
    )
    step: int = setting(0, description="steps done", unit="steps", ge=0)
    total: int = setting(0, description="steps in all", unit="steps", ge=0)
    samples: int = setting(0, description="samples seen", unit="samples", ge=0)
    loss: float | None = setting(None, description="loss of the last logged step")
    samples_per_second: float | None = setting(
        None, description="rate over the last steps", unit="samples/s"
    )
    eta_seconds: float | None = setting(None, description="time left at that rate", unit="seconds")
    checkpoint: str | None = setting(None, description="newest commit")
    checkpoint_step: int | None = setting(
        None, description="step of the newest commit", unit="steps"
    )
    restored_step: int | None = setting(
        None, description="step that this attempt started from", unit="steps"
    )


class StageStatus(Settings):
    """What happened to one stage."""

    name: str = setting(description="name of the stage")
    state: State = setting(State.PENDING, description="where it stands")
    attempts: tuple[Attempt, ...] = setting((), description="every try, oldest first")
    progress: Progress | None = setting(None, description="how far the current attempt is")
    model: str | None = setting(None, description="URI of the final model")
    mlflow_run: str | None = setting(None, description="id of the stage's MLflow run")
    metrics: dict[str, float] = setting({}, description="results")


class JobStatus(Settings):
    """What happened to the job."""

    observed_generation: int | None = setting(
        None, description="generation of the spec that this status is of"
    )
    phase: State = setting(
        State.PENDING, description="where the job stands, derived from its stages"
    )
    conditions: tuple[Condition, ...] = setting((), description="observations, one a type")
    stages: tuple[StageStatus, ...] = setting((), description="each stage")
    started: str | None = setting(None, description="when the first stage started")
    ended: str | None = setting(None, description="when the last stage ended")

    def stage(self, name: str) -> StageStatus:
        """The status of a stage; a fresh one when nothing is known of it."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        return StageStatus(name=name)

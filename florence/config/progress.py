"""How far a stage is: what its first rank tells, and what a job's status says of it."""

from __future__ import annotations

from pydantic import ConfigDict

from florence.config.base import Settings, setting


class PhaseSeconds(Settings):
    """What the first rank's time went into, since its process began; all else is its start."""

    model_config = ConfigDict(extra="ignore")

    train: float = setting(0.0, description="steps, without waits", unit="seconds", ge=0)
    data_wait: float = setting(0.0, description="waiting for data", unit="seconds", ge=0)
    checkpoint: float = setting(
        0.0, description="waiting for checkpoints to be saved", unit="seconds", ge=0
    )
    evaluate: float = setting(0.0, description="evaluation and export", unit="seconds", ge=0)
    kept: float = setting(
        0.0, description="the part of train that the newest commit holds", unit="seconds", ge=0
    )


class StageProgress(Settings):
    """How far a stage is.

    One version of florence tells it and another reads it, so unknown fields are left out.
    """

    model_config = ConfigDict(extra="ignore")

    phase: str = setting(
        "train",
        description="what it does: start, index, restore, train, checkpoint, evaluate, export",
    )
    step: int = setting(0, description="steps done", unit="steps", ge=0)
    total: int = setting(0, description="steps in all", unit="steps", ge=0)
    phase_fraction: float | None = setting(
        None, description="part of the phase that is done, where it is no training", ge=0, le=1
    )
    samples: int = setting(0, description="samples seen", unit="samples", ge=0)
    loss: float | None = setting(None, description="loss of the last logged step")
    samples_per_second: float | None = setting(
        None, description="rate over the last steps", unit="samples/s"
    )
    epoch: float | None = setting(None, description="passes over the data", unit="epochs")
    data_wait: float | None = setting(
        None, description="part of the last steps' time that was spent waiting for data", ge=0, le=1
    )
    memory_bytes: int | None = setting(
        None,
        description="most memory that the first rank held: its GPU's, or without one the process's",
        unit="bytes",
    )
    best_metric: str | None = setting(None, description="what evaluations on the way are judged by")
    best_value: float | None = setting(None, description="the best of them")
    best_step: int | None = setting(None, description="when that was", unit="steps")
    eta_seconds: float | None = setting(None, description="time left at that rate", unit="seconds")
    checkpoint: str | None = setting(None, description="newest commit")
    checkpoint_step: int | None = setting(
        None, description="step of the newest commit", unit="steps"
    )
    restored_step: int | None = setting(
        None, description="step that this attempt started from", unit="steps"
    )
    seconds: PhaseSeconds | None = setting(
        None, description="what the first rank's time went into, in this attempt"
    )
    unusable: tuple[str, ...] = setting(
        (), description="what was passed over when this attempt looked for a checkpoint, and why"
    )

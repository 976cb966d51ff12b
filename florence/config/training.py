"""The settings of every stage that trains, whatever it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar, Self

from pydantic import model_validator

from florence.config.base import Holds, Settings, location, setting, settings_group
from florence.config.data import Augmentation, Loader
from florence.config.evaluate import Evaluate
from florence.config.precision import Precision
from florence.config.stage import StageSettings
from florence.errors import SettingError


class EngineKind(StrEnum):
    """What drives the optimizer; both reach the same parameters."""

    AUTO = "auto"
    TORCH = "torch"
    DEEPSPEED = "deepspeed"


class ActivationCheckpointing(StrEnum):
    """Which activations are recomputed in the backward pass."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


class Schedule(StrEnum):
    """How the learning rate falls after warm-up."""

    CONSTANT = "constant"
    COSINE = "cosine"
    LINEAR = "linear"
    STEP = "step"
    PLATEAU = "plateau"


class Optimizer(Settings):
    """AdamW (paper: Adam with decoupled decay), linear warm-up, then a schedule."""

    lr: float = setting(5e-4, description="peak learning rate", gt=0)
    schedule: Schedule = setting(
        Schedule.COSINE,
        description="after warm-up: cosine or linear to minLrFraction, step (times decayFactor "
        "at each of decayAt), plateau (times decayFactor when an evaluation has not improved for "
        "patience evaluations), or constant",
    )
    min_lr_fraction: float = setting(
        0.01, description="learning rate at the last step over the peak", ge=0, le=1
    )
    decay_at: tuple[float, ...] = setting(
        (2 / 3, 8 / 9),
        description="schedule step: where the rate falls, as fractions of all steps",
    )
    decay_factor: float = setting(
        0.1, description="schedules step and plateau: what the rate is multiplied by", gt=0, lt=1
    )
    patience: int = setting(
        3,
        description="schedule plateau: evaluations without improvement before the rate falls",
        unit="evaluations",
        ge=1,
    )
    warmup_steps: int = setting(
        2_000,
        description="steps of linear warm-up; in a stage of no more steps than this, a tenth "
        "of them",
        unit="steps",
        ge=0,
    )
    beta1: float = setting(0.9, description="decay of the first moment", ge=0, lt=1)
    beta2: float = setting(0.98, description="decay of the second moment", ge=0, lt=1)
    eps: float = setting(1e-6, description="added to the root of the second moment", gt=0)
    weight_decay: float = setting(
        0.1,
        description="decoupled weight decay of matrices; never of norms, biases, bias tables, "
        "positions and temperature",
        ge=0,
    )
    layer_decay: float = setting(
        1.0,
        description="what the learning rate of a tower's block is multiplied by for every block "
        "that follows it; 1 trains all alike",
        gt=0,
        le=1,
    )
    clip_norm: float = setting(
        5.0, description="largest global gradient norm; 0 does not clip", ge=0
    )

    @model_validator(mode="after")
    def _decays_in_order(self) -> Self:
        if list(self.decay_at) != sorted(set(self.decay_at)) or not all(
            0 < part < 1 for part in self.decay_at
        ):
            raise ValueError("decayAt must rise, strictly between 0 and 1")
        return self


class ChangedSettings(StrEnum):
    """What an attempt does with a checkpoint that was trained with other settings."""

    REFUSE = "refuse"
    CONTINUE = "continue"
    RESTART = "restart"


class CheckpointPolicy(Settings):
    """When training state is committed, and how much of it is kept."""

    every_steps: int = setting(
        1_000,
        description="steps between checkpoints; the last step is always one",
        unit="steps",
        ge=1,
    )
    keep: int = setting(3, description="newest commits kept; older ones are deleted", ge=1)
    max_failed_saves: int = setting(
        3,
        description="saves in a row that may fail before the stage gives up with exit code 75",
        unit="saves",
        ge=1,
    )
    if_settings_changed: ChangedSettings = setting(
        ChangedSettings.REFUSE,
        description="what follows when the stage's settings are no longer those of its "
        "checkpoint: refuse (exit code 2, which names them), continue from it with the new "
        "settings, or restart from the beginning",
    )


class Training(StageSettings):
    """What every training stage sets."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of WebDataset shards: a folder, s3://bucket/prefix, or "
        "builtin:digits/train",
        affects_result=False,  # the fingerprint of the samples stands for it
        min_length=1,
    )
    batch_size: int = setting(
        description="samples per optimizer step over all ranks", unit="samples", ge=1
    )
    steps: int | None = setting(
        None, description="optimizer steps; or give epochs", unit="steps", ge=1
    )
    epochs: float | None = setting(
        None, description="passes over the data; or give steps", unit="epochs", gt=0
    )
    resolution: int = setting(224, description="side of the square images", unit="pixels", ge=8)
    window: int | None = setting(
        None,
        description="side of an attention window in this stage; bias tables are resized. "
        "Default: that of the model it starts from, or the preset's",
        unit="tokens",
        ge=1,
    )
    seed: int = setting(
        0, description="decides initialisation, data order, crops and templates", ge=0
    )
    optimizer: Optimizer = settings_group(
        Optimizer, description="optimizer and learning-rate schedule"
    )
    loader: Loader = settings_group(Loader, description="reading and decoding")
    augmentation: Augmentation = settings_group(
        Augmentation, description="random crops and normalisation"
    )
    precision: Precision = setting(Precision.FP32, description="number format of matrix products")
    engine: EngineKind = setting(
        EngineKind.AUTO,
        description="auto: torch for one process without CUDA, else deepspeed when installed",
        affects_result=False,
    )
    zero_stage: int = setting(
        1,
        description="what DeepSpeed shards: 0 nothing, 1 optimizer states, 2 also gradients, "
        "3 also parameters",
        affects_result=False,
        ge=0,
        le=3,
    )
    activation_checkpointing: ActivationCheckpointing = setting(
        ActivationCheckpointing.NONE,
        description="none, selective (attention only) or full (every block)",
        affects_result=False,
    )
    gradient_cache_chunks: int = setting(
        1,
        description="chunks of a rank's batch; peak activation memory falls by this factor. A "
        "contrastive loss pays one more forward pass (gradient cache), others nothing "
        "(gradient accumulation)",
        affects_result=False,
        ge=1,
    )
    compile: bool = setting(
        False,
        description="compile the blocks with torch.compile; pays on GPUs",
        affects_result=False,
    )
    drop_path: float | None = setting(
        None,
        description="highest probability of dropping a block in this stage. Default: the model's",
        ge=0,
        lt=1,
    )
    checkpoints: CheckpointPolicy = settings_group(
        CheckpointPolicy, description="commits of the training state", affects_result=False
    )
    evaluation: Evaluate | None = setting(
        None,
        description="what is measured on held-out data at the end of the stage, and on the way",
        affects_result=False,
    )
    evaluate_every_steps: int | None = setting(
        None,
        description="steps between evaluations on the way. Default: none before the end",
        unit="steps",
        affects_result=False,
        ge=1,
    )
    keep_best: bool = setting(
        False,
        description="the stage's model is that of its best evaluation, by the first metric, and "
        "not that of its last step; needs evaluateEverySteps",
        affects_result=False,
    )
    early_stop: int | None = setting(
        None,
        description="evaluations in a row without improvement after which the stage ends; needs "
        "evaluateEverySteps. Default: it goes on to its last step",
        unit="evaluations",
        affects_result=False,
        ge=1,
    )
    log_every_steps: int = setting(
        10, description="steps between logged metrics", unit="steps", affects_result=False, ge=1
    )
    nan_budget: int = setting(
        10,
        description="steps in a row with a non-finite loss or gradient that are skipped "
        "before the stage stops with exit code 4",
        unit="steps",
        affects_result=False,
        ge=0,
    )

    closed_form: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Values of fields under which a stage is solved at once and has no optimizer steps, by the
    field's name: ``{"mode": ("linearProbe",)}``."""

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if self.trains_in_steps and (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        if self.optimizer.schedule is Schedule.PLATEAU and not self.evaluate_every_steps:
            raise ValueError("optimizer.schedule plateau needs evaluateEverySteps")
        for name, is_set in (("keepBest", self.keep_best), ("earlyStop", self.early_stop)):
            if is_set and not self.evaluate_every_steps:
                raise ValueError(f"{name} needs evaluateEverySteps")
        return self

    @property
    def trains_in_steps(self) -> bool:
        """Whether the stage has optimizer steps; a probe that is solved in closed form has none."""
        return not any(getattr(self, name) in values for name, values in self.closed_form.items())

    @property
    def planned_steps(self) -> int | None:
        """See :class:`StageSettings`."""
        return self.steps

    def total_steps(self, samples: int) -> int:
        """Optimizer steps over a data set of this size: ``steps``, or those of ``epochs``."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * samples / self.batch_size))

    def samples_per_process(self, processes: int) -> int:
        """The samples of a step on each of ``processes``, of which each makes its chunks.

        Raises:
            SettingError: the batch does not divide over the processes, or has fewer samples
                on each than there are chunks.
        """
        if self.batch_size % processes:
            nearest = max(round(self.batch_size / processes), 1) * processes
            raise SettingError(
                "batchSize",
                self.batch_size,
                f"does not divide over {processes} processes: "
                f"use a multiple of {processes} such as {nearest}",
            )
        samples = self.batch_size // processes
        if self.gradient_cache_chunks > samples:
            raise SettingError(
                "gradientCacheChunks",
                self.gradient_cache_chunks,
                f"is more than the {samples} samples of each of {processes} processes: "
                f"use at most {samples}",
            )
        return samples

    def check_processes(self, processes: int) -> None:
        """See :class:`StageSettings`."""
        if self.trains_in_steps:
            self.samples_per_process(processes)

    def most_processes(self, available: int) -> int:
        """See :class:`StageSettings`; the result of training does not depend on it."""
        if not self.trains_in_steps:
            return available
        return next(
            n
            for n in range(available, 0, -1)
            if (self.batch_size % n == 0 and self.gradient_cache_chunks <= self.batch_size // n)
            or n == 1
        )

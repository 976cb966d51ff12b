"""The settings of a pretraining stage: contrastive training of both towers (UniCL)."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import model_validator

from florence.config.base import Settings, setting, settings_group
from florence.config.data import Augmentation, Loader, Text


class Precision(StrEnum):
    """The number format of matrix products; norms, losses and optimizer states stay fp32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class EngineKind(StrEnum):
    """What drives the optimizer; both reach the same parameters."""

    AUTO = "auto"
    TORCH = "torch"
    DEEPSPEED = "deepspeed"


class Checkpointing(StrEnum):
    """Which activations are recomputed in the backward pass."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


class Reduction(StrEnum):
    """How the loss is summed: UniCL's mean over both directions, or the paper's plain sum."""

    MEAN = "mean"
    SUM = "sum"


class Optimizer(Settings):
    """AdamW (paper: Adam with decoupled decay), linear warm-up, cosine to a part of the peak."""

    lr: float = setting(5e-4, description="peak learning rate", gt=0)
    min_lr_fraction: float = setting(
        0.01, description="learning rate at the last step over the peak", ge=0, le=1
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
    clip_norm: float = setting(
        5.0, description="largest global gradient norm; 0 does not clip", ge=0
    )


class Loss(Settings):
    """UniCL over the global batch."""

    reduction: Reduction = setting(
        Reduction.MEAN, description="mean: L / 2B, as UniCL trains; sum: the paper's formula"
    )
    row_chunk: int = setting(
        0, description="rows of the logits computed at once; 0 computes all", unit="rows", ge=0
    )
    temperature: float = setting(
        0.07, description="initial temperature; logits are multiplied by its inverse", gt=0
    )
    max_scale: float = setting(100.0, description="largest multiplier of the logits", gt=1)


class Checkpoints(Settings):
    """When training state is committed, and how much of it is kept."""

    every_steps: int = setting(
        1_000,
        description="steps between checkpoints; the last step is always one",
        unit="steps",
        ge=1,
    )
    keep: int = setting(3, description="newest commits kept; older ones are deleted", ge=1)


class Pretrain(Settings):
    """One pretraining stage."""

    data: str = setting(
        description="URI of WebDataset shards: a folder, s3://bucket/prefix, or "
        "builtin:digits/train",
        min_length=1,
    )
    batch_size: int = setting(
        description="samples per optimizer step over all ranks", unit="samples", ge=1
    )
    steps: int = setting(description="optimizer steps", unit="steps", ge=1)
    resolution: int = setting(224, description="side of the square images", unit="pixels", ge=8)
    window: int | None = setting(
        None,
        description="side of an attention window in this stage; bias tables are resized. "
        "Default: the model's",
        unit="tokens",
        ge=1,
    )
    exclude_augmented: bool = setting(
        False,
        description="drop the samples whose text is short and would get a template (second "
        "stage of the paper)",
    )
    seed: int = setting(
        0, description="decides initialisation, data order, crops and templates", ge=0
    )
    optimizer: Optimizer = settings_group(
        Optimizer, description="optimizer and learning-rate schedule"
    )
    loss: Loss = settings_group(Loss, description="contrastive loss")
    loader: Loader = settings_group(Loader, description="reading and decoding")
    augmentation: Augmentation = settings_group(
        Augmentation, description="random crops and normalisation"
    )
    text: Text = settings_group(Text, description="labels and templates")
    precision: Precision = setting(Precision.FP32, description="number format of matrix products")
    engine: EngineKind = setting(
        EngineKind.AUTO,
        description="auto: torch for one process without CUDA, else deepspeed when installed",
    )
    zero_stage: int = setting(
        1,
        description="what DeepSpeed shards: 0 nothing, 1 optimizer states, 2 also gradients, "
        "3 also parameters",
        ge=0,
        le=3,
    )
    activation_checkpointing: Checkpointing = setting(
        Checkpointing.NONE, description="none, selective (attention only) or full (every block)"
    )
    gradient_cache_chunks: int = setting(
        1,
        description="chunks of a rank's batch; peak activation memory falls by this factor "
        "for one more forward pass",
        ge=1,
    )
    compile: bool = setting(
        False, description="compile the blocks with torch.compile; pays on GPUs"
    )
    drop_path: float | None = setting(
        None,
        description="highest probability of dropping a block in this stage. Default: the model's",
        ge=0,
        lt=1,
    )
    checkpoints: Checkpoints = settings_group(
        Checkpoints, description="commits of the training state"
    )
    log_every_steps: int = setting(
        10, description="steps between logged metrics", unit="steps", ge=1
    )
    nan_budget: int = setting(
        10,
        description="steps in a row with a non-finite loss or gradient that are skipped "
        "before the stage stops with exit code 4",
        unit="steps",
        ge=0,
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        a = self.augmentation
        if a.scale_min > a.scale_max or a.ratio_min > a.ratio_max:
            raise ValueError("augmentation: a minimum is above its maximum")
        return self

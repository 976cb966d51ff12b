"""The contrastive loss of image-text pairs (UniCL), shared by every kind that trains with it."""

from __future__ import annotations

from enum import StrEnum

from florence.config.base import Settings, setting


class Reduction(StrEnum):
    """How the loss is summed: UniCL's mean over both directions, or the paper's plain sum."""

    MEAN = "mean"
    SUM = "sum"


class ContrastiveLoss(Settings):
    """UniCL over the global batch."""

    reduction: Reduction = setting(
        Reduction.MEAN, description="mean: L / 2B, as UniCL trains; sum: the paper's formula"
    )
    row_chunk: int = setting(
        0,
        description="rows of the logits computed at once; 0 computes all",
        unit="rows",
        affects_result=False,
        ge=0,
    )
    temperature: float = setting(
        0.07, description="initial temperature; logits are multiplied by its inverse", gt=0
    )
    max_scale: float = setting(100.0, description="largest multiplier of the logits", gt=1)

"""The number format of matrix products."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """The number format of matrix products; norms, losses and optimizer states stay fp32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"

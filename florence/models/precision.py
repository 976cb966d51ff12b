"""The number format that matrix products are computed in."""

from __future__ import annotations

import torch

from florence.config import Precision

_AUTOCAST = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def autocast(device_type: str, precision: Precision) -> torch.autocast:
    """A new autocast context of the precision; one that does nothing for fp32."""
    dtype = _AUTOCAST.get(precision)
    return torch.autocast(device_type, dtype=dtype, enabled=dtype is not None)

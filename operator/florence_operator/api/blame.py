"""What counts against a node: how attempts ended there, with less weight the longer ago it was."""

from __future__ import annotations

import math
from collections.abc import Iterable

from florence_operator.api.failure import Cause
from florence_operator.api.open_enum import OpenEnum
from florence_operator.api.status import Attempt


class Strike(OpenEnum):
    """Why an attempt's end counts against the node that it happened on."""

    NODE_LOST = "NodeLost"
    """It did not answer."""
    NODE_PRESSURE = "NodePressure"
    """Its kubelet evicted a pod because the node was short of something."""
    DEVICE = "Device"
    """One of its devices failed, or could not be given to a pod."""
    POD_STUCK = "PodStuck"
    """A pod did not end there although it was killed."""


BAD = 1.0
"""A node whose strikes weigh more is avoided: two of one moment, for one half-life."""


def strike_of(attempt: Attempt) -> Strike | None:
    """Why an attempt's end counts against its node, where it does."""
    if attempt.node is None or attempt.completion_time is None:
        return None
    if attempt.strike is not None:
        return Strike(attempt.strike)
    # The release before wrote no strikes.
    return Strike.NODE_LOST if attempt.cause is Cause.NODE_LOST else None


def weight(moments: Iterable[float], now: float, half_life: float) -> float:
    """What strikes weigh together: 1 each when they happen, half of it after each half-life.

    Args:
        moments: when each happened (Unix seconds).
        half_life: seconds.
    """
    return sum(math.exp2(-max(0.0, now - moment) / half_life) for moment in moments)

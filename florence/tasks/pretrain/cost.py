"""What a pretraining step costs."""

from __future__ import annotations

from typing import Any

from florence.config import ContrastiveLoss
from florence.tasks.contrastive.cost import ContrastiveCost


class PretrainCost(ContrastiveCost):
    """See :class:`florence.planner.cost.Cost`."""

    def loss(self, settings: Any) -> ContrastiveLoss:
        """That of the stage."""
        loss: ContrastiveLoss = settings.loss
        return loss

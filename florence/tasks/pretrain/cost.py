"""What a pretraining step costs."""

from __future__ import annotations

from florence.config import ContrastiveLoss
from florence.tasks.contrastive.cost import ContrastiveCost
from florence.tasks.pretrain.settings import Pretrain


class PretrainCost(ContrastiveCost[Pretrain]):
    """See :class:`florence.planner.cost.Cost`."""

    def loss(self, settings: Pretrain) -> ContrastiveLoss:
        """That of the stage."""
        return settings.loss

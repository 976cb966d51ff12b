"""What a step of visual question answering costs."""

from __future__ import annotations

from florence.config import Architecture
from florence.planner.activations import FP32
from florence.planner.cost import LossBytes
from florence.tasks.vision_language.cost import VisionLanguageCost
from florence.tasks.vision_language.settings import FusionSettings
from florence.tasks.vqa.settings import Vqa

ASSUMED_ANSWERS = 3_129
"""Answers, whose number only the data tells: VQAv2's."""


class VqaCost(VisionLanguageCost[Vqa]):
    """See :class:`florence.planner.cost.Cost`."""

    def head_parameters(self, architecture: Architecture, settings: Vqa) -> int:
        """Two linear layers and a norm between them."""
        f = _features(settings)
        return f * f + 3 * f + (f + 1) * ASSUMED_ANSWERS

    def head_macs(self, architecture: Architecture, settings: Vqa) -> int:
        """Of the two layers."""
        f = _features(settings)
        return f * f + f * ASSUMED_ANSWERS

    def head_bytes(self, architecture: Architecture, settings: Vqa) -> float:
        """Inputs of layers, norm and GELU."""
        return 4.0 * _features(settings) * FP32

    def loss_bytes(
        self, architecture: Architecture, settings: Vqa, *, rows: int, processes: int
    ) -> LossBytes:
        """Logits, targets and the gradient of a chunk."""
        chunk = -(-rows // settings.gradient_cache_chunks)
        return LossBytes(logits=3.0 * chunk * ASSUMED_ANSWERS * FP32)


def _features(settings: Vqa) -> int:
    return 2 * (settings.fusion or FusionSettings()).width

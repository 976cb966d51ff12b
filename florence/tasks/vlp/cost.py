"""What a step of vision-language pretraining costs."""

from __future__ import annotations

from florence.config import Architecture
from florence.planner.activations import FP32
from florence.planner.cost import LossBytes
from florence.planner.fusion import RobertaSize
from florence.tasks.vision_language.cost import VisionLanguageCost
from florence.tasks.vision_language.settings import FusionSettings, TextEncoder
from florence.tasks.vlp.settings import Vlp


class VlpCost(VisionLanguageCost[Vlp]):
    """See :class:`florence.planner.cost.Cost`: an image once, its text and the pair twice."""

    text_passes = 2
    fusion_passes = 2

    def head_parameters(self, architecture: Architecture, settings: Vlp) -> int:
        """Matching, and a decoder of words with its transform."""
        c, v = _width(settings), _vocabulary(architecture, settings)
        return 2 * (2 * c + 1) + c * c + 3 * c + (c + 1) * v

    def head_macs(self, architecture: Architecture, settings: Vlp) -> int:
        """Words are decoded where they are hidden only."""
        c, v = _width(settings), _vocabulary(architecture, settings)
        return 4 * c + round(_hidden(settings) * (c * c + c * v))

    def head_bytes(self, architecture: Architecture, settings: Vlp) -> float:
        """Inputs of the transform, its norm and GELU, at hidden tokens."""
        return 4 * _hidden(settings) * _width(settings) * FP32

    def loss_bytes(
        self, architecture: Architecture, settings: Vlp, *, rows: int, processes: int
    ) -> LossBytes:
        """Logits of hidden words of a chunk, their logarithms and the gradient."""
        words = -(-rows // settings.gradient_cache_chunks) * _hidden(settings)
        return LossBytes(logits=3.0 * words * _vocabulary(architecture, settings) * FP32)


def _width(settings: Vlp) -> int:
    return (settings.fusion or FusionSettings()).width


def _hidden(settings: Vlp) -> float:
    """Hidden tokens of a text of full length, on average."""
    return settings.mask_fraction * (settings.text_length - 2)


def _vocabulary(architecture: Architecture, settings: Vlp) -> int:
    if settings.text_encoder is TextEncoder.FLORENCE:
        return architecture.text.vocabulary
    return RobertaSize().vocabulary

"""What a step of captioning costs."""

from __future__ import annotations

from florence.config import Architecture
from florence.planner.activations import FP32
from florence.planner.cost import LossBytes
from florence.planner.fusion import RobertaSize
from florence.tasks.caption.settings import Caption
from florence.tasks.vision_language.cost import VisionLanguageCost
from florence.tasks.vision_language.settings import FusionSettings, TextEncoder


class CaptionCost(VisionLanguageCost[Caption]):
    """See :class:`florence.planner.cost.Cost`; texts are taken at full length."""

    causal = True

    def head_parameters(self, architecture: Architecture, settings: Caption) -> int:
        """A decoder of words with its transform."""
        c, v = _width(settings), _vocabulary(architecture, settings)
        return c * c + 3 * c + (c + 1) * v

    def head_macs(self, architecture: Architecture, settings: Caption) -> int:
        """At every token but the last."""
        c, v = _width(settings), _vocabulary(architecture, settings)
        return (settings.text_length - 1) * (c * c + c * v)

    def head_bytes(self, architecture: Architecture, settings: Caption) -> float:
        """Inputs of the transform, its norm and GELU."""
        return 4.0 * (settings.text_length - 1) * _width(settings) * FP32

    def loss_bytes(
        self, architecture: Architecture, settings: Caption, *, rows: int, processes: int
    ) -> LossBytes:
        """Logits of a chunk's words, their logarithms and the gradient."""
        words = -(-rows // settings.gradient_cache_chunks) * (settings.text_length - 1)
        return LossBytes(logits=3.0 * words * _vocabulary(architecture, settings) * FP32)


def _width(settings: Caption) -> int:
    return (settings.fusion or FusionSettings()).width


def _vocabulary(architecture: Architecture, settings: Caption) -> int:
    if settings.text_encoder is TextEncoder.FLORENCE:
        return architecture.text.vocabulary
    return RobertaSize().vocabulary

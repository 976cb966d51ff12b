"""What the planner asks of a kind of stage that trains; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from florence.config import Architecture
from florence.planner.sizes import TowerCounts


@dataclass(frozen=True, slots=True)
class LossBytes:
    """Memory of the loss beside the activations: gathered features, and logits or maps."""

    features: float = 0.0
    logits: float = 0.0


class Cost(Protocol):
    """Parameters, FLOPs and bytes of a step, from settings alone; ``settings`` are the kind's."""

    def parameters(self, architecture: Architecture, settings: Any) -> TowerCounts:
        """Parameters of the model."""

    def trained_parameters(self, architecture: Architecture, settings: Any) -> int:
        """Those that the optimizer changes."""

    def forward_macs(self, architecture: Architecture, settings: Any) -> TowerCounts:
        """Multiply-accumulates of one sample's forward pass."""

    def training_flops(self, architecture: Architecture, settings: Any) -> TowerCounts:
        """FLOPs of one sample's forward and backward pass; recomputation is not counted."""

    def recomputed_macs(self, architecture: Architecture, settings: Any) -> int:
        """Forward MACs of a sample that are computed again to save memory."""

    def activation_bytes(self, architecture: Architecture, settings: Any, *, cuda: bool) -> float:
        """Highest bytes per sample that are held for the backward pass."""

    def cast_bytes(self, architecture: Architecture, settings: Any) -> float:
        """Autocast's half-precision copies of weights that a step holds."""

    def sample_bytes(self, architecture: Architecture, settings: Any) -> int:
        """Bytes of one sample as it enters the model."""

    def loss_bytes(
        self, architecture: Architecture, settings: Any, *, rows: int, processes: int
    ) -> LossBytes:
        """Bytes of the loss of one process with ``rows`` samples."""

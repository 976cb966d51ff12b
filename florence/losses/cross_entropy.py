"""Cross-entropy of classes as an objective, with smoothed labels and mixed images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from torch import Tensor
from torch.nn import functional as F

from florence.distributed.objective import Loss, Model


class ClassifiedBatch(Protocol):
    """Images (b, 3, H, W) and their classes.

    ``labels`` and ``partners`` are (b,) int64, ``shares`` (b,) float in [0, 1]: of an image that
    is mixed from two, the share of the one with ``labels``.
    """

    images: Tensor
    labels: Tensor
    partners: Tensor
    shares: Tensor

    def __len__(self) -> int: ...

    def chunk(self, n: int) -> Sequence[Self]: ...

    def to(self, device: Any) -> Self: ...


@dataclass(frozen=True)
class CrossEntropyObjective:
    """The mean over samples of -Σ_c q_c log p_c, p the softmax of the logits.

    q is 1 at the label (or shared by two labels), of which ``label_smoothing`` is spread over all
    classes. Metric: ``accuracy`` of the rank's samples, by ``labels``.
    """

    label_smoothing: float = 0.0

    coupled = False

    def prepare(self, batch: ClassifiedBatch) -> int:
        """The rank's samples, over which the loss is a mean."""
        return len(batch)

    def outputs(self, model: Model, chunk: ClassifiedBatch) -> tuple[Tensor, ...]:
        """Logits (b, C)."""
        return (model(chunk.images),)

    def loss(self, outputs: tuple[Tensor, ...], batch: ClassifiedBatch, prepared: int) -> Loss:
        """The chunk's part of the mean."""
        logs = F.log_softmax(outputs[0].float(), dim=-1)
        own = logs.gather(1, batch.labels[:, None])[:, 0]
        partner = logs.gather(1, batch.partners[:, None])[:, 0]
        named = batch.shares * own + (1 - batch.shares) * partner
        spread = logs.mean(dim=-1)
        each = -(1 - self.label_smoothing) * named - self.label_smoothing * spread
        right = (logs.detach().argmax(dim=-1) == batch.labels).float()
        return Loss(each.sum() / prepared, {"accuracy": right.sum() / prepared})

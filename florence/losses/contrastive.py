"""UniCL as an objective: image-text pairs of every rank, through the gradient cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
import torch.distributed as dist
from torch import Tensor

from florence.config import ContrastiveLoss, Reduction
from florence.distributed.gather import all_gather_rows
from florence.distributed.objective import Loss, Model
from florence.losses.unicl import unicl_loss


class PairBatch(Protocol):
    """Image-text pairs: images (b, 3, H, W) float, input_ids (b, L) int64, labels (b,) int64."""

    images: Tensor
    input_ids: Tensor
    labels: Tensor

    def __len__(self) -> int: ...

    def chunk(self, n: int) -> Sequence[Self]: ...

    def to(self, device: Any) -> Self: ...


@dataclass(frozen=True)
class ContrastiveObjective:
    """UniCL over the samples of every rank of ``group`` (None: all ranks).

    Metrics: ``logit_scale``; ``positives_per_row``, the mean over the rank's samples of how many
    samples of the global batch carry their label; ``loss_sum`` and ``loss_mean``, the loss in both
    reductions.
    """

    settings: ContrastiveLoss
    group: dist.ProcessGroup | None = None

    coupled = True

    def prepare(self, batch: PairBatch) -> Tensor:
        """The labels of the global batch."""
        return all_gather_rows(batch.labels, self.group)

    def outputs(self, model: Model, chunk: PairBatch) -> tuple[Tensor, ...]:
        """Image and text embeddings (b, D) of a chunk, and ln τ as (1,)."""
        u, v, logit_scale = model(chunk.images, chunk.input_ids)
        return u, v, logit_scale

    def loss(self, outputs: tuple[Tensor, ...], batch: PairBatch, prepared: Tensor) -> Loss:
        """:func:`florence.losses.unicl.unicl_loss` of the whole local batch.

        Every chunk brings the same ln τ; the first stands for all.
        """
        u, v, logit_scale = outputs
        value = unicl_loss(
            u,
            v,
            logit_scale[:1],
            batch.labels,
            all_labels=prepared,
            reduction=self.settings.reduction,
            row_chunk=self.settings.row_chunk,
            group=self.group,
        )
        return Loss(value, self._metrics(value, logit_scale, batch.labels, prepared))

    def _metrics(
        self, value: Tensor, logit_scale: Tensor, labels: Tensor, all_labels: Tensor
    ) -> dict[str, Tensor]:
        both = 2 * all_labels.shape[0]
        is_sum = self.settings.reduction is Reduction.SUM
        values, counts = torch.unique(all_labels, return_counts=True)
        own = torch.searchsorted(values, labels)
        return {
            "logit_scale": logit_scale.detach().float()[0].exp(),
            "positives_per_row": counts[own].float().mean(),
            "loss_mean": value.detach() / both if is_sum else value.detach(),
            "loss_sum": value.detach() if is_sum else value.detach() * both,
        }

"""What a step minimises, cut where the gradient cache needs it: features, then their loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import torch.distributed as dist
from torch import Tensor

from florence.config import Loss
from florence.losses.unicl import unicl_loss


class Chunkable(Protocol):
    """A batch that can be cut into parts of consecutive samples and moved to a device."""

    def chunk(self, n: int) -> Sequence[Self]: ...

    def to(self, device: Any) -> Self: ...


class PairBatch(Chunkable, Protocol):
    """Image-text pairs: images (b, 3, H, W) float, ids (b, L) int64, labels (b,) int64."""

    @property
    def images(self) -> Tensor: ...

    @property
    def ids(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...


BatchT = TypeVar("BatchT", bound=Chunkable)
ContravariantBatchT = TypeVar("ContravariantBatchT", bound=Chunkable, contravariant=True)


class Features(NamedTuple):
    """A forward pass: tensors with one row per sample, and the logit scale's logarithm."""

    rows: tuple[Tensor, ...]
    logit_scale: Tensor


class Objective(Protocol[ContravariantBatchT]):
    """A loss that depends on the parameters only through per-sample features and the log-scale."""

    def features(self, model: Callable[..., Any], chunk: ContravariantBatchT) -> Features:
        """One forward pass; the features of a sample depend on that sample only."""
        ...

    def loss(
        self, rows: tuple[Tensor, ...], logit_scale: Tensor, batch: ContravariantBatchT
    ) -> Tensor:
        """This rank's scalar loss; its mean over ranks is what the step minimises."""
        ...


@dataclass(frozen=True)
class ContrastiveObjective:
    """UniCL over the samples of every rank of ``group`` (None: all ranks)."""

    settings: Loss
    group: dist.ProcessGroup | None = None

    def features(self, model: Callable[..., Any], chunk: PairBatch) -> Features:
        """Image and text embeddings (b, D) of a chunk."""
        u, v, logit_scale = model(chunk.images, chunk.ids)
        return Features((u, v), logit_scale)

    def loss(self, rows: tuple[Tensor, ...], logit_scale: Tensor, batch: PairBatch) -> Tensor:
        """:func:`florence.losses.unicl.unicl_loss` of the whole local batch."""
        u, v = rows
        return unicl_loss(
            u,
            v,
            logit_scale,
            batch.labels,
            reduction=self.settings.reduction,
            row_chunk=self.settings.row_chunk,
            group=self.group,
        )

"""What a step minimises, cut where chunks of a batch need it: outputs of the model, their loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor

Model = Callable[..., Any]


class Chunkable(Protocol):
    """A batch that can be cut into parts of consecutive samples and moved to a device."""

    def __len__(self) -> int: ...

    def chunk(self, n: int) -> Sequence[Self]: ...

    def to(self, device: Any) -> Self: ...


BatchT = TypeVar("BatchT", bound=Chunkable)
ContravariantBatchT = TypeVar("ContravariantBatchT", bound=Chunkable, contravariant=True)


@dataclass(frozen=True)
class Loss:
    """A loss and what else is worth knowing about it.

    ``value`` is a scalar whose mean over ranks is minimised; the values of a separable loss's
    chunks add up. ``metrics`` are detached scalars by name, which add up in the same way.
    """

    value: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol[ContravariantBatchT]):
    """A loss over a batch, in three steps.

    ``coupled`` says whether a sample's loss depends on other samples. Where it does not, chunks of
    a batch are computed one after the other (gradient accumulation); where it does, the outputs
    of all chunks are needed before the loss of any is known (gradient cache), and outputs must be
    tensors whose rows belong to the chunk's samples, or stand once for the whole chunk.
    """

    @property
    def coupled(self) -> bool: ...

    def prepare(self, batch: ContravariantBatchT) -> Any:
        """Targets and normalisers of the whole batch, before any forward pass; collective."""
        ...

    def outputs(self, model: Model, chunk: ContravariantBatchT) -> tuple[Tensor, ...]:
        """One forward pass; what a sample's outputs are depends on that sample only."""
        ...

    def loss(self, outputs: tuple[Tensor, ...], batch: ContravariantBatchT, prepared: Any) -> Loss:
        """This rank's loss of a batch, or of a chunk where the loss is separable."""
        ...

"""Exact gradients of a contrastive batch whose activations do not fit in memory.

The loss depends on the parameters only through the features, so dL/dθ = Σ_c J_cᵀ d_c over chunks c
with d = dL/dfeatures. First the features of all chunks are computed, of all but the last without
activations. The loss gives d. The last chunk back-propagates its d_c at once; the others run again,
with the random numbers of their first run, and do so too (after Gao et al. 2021). With m chunks it
costs (m - 1) / m of a forward pass more, and holds the activations of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from florence.distributed.objective import BatchT, Features, Objective

Model = Callable[..., Any]
Backward = Callable[[Tensor], None]
#: Wraps the forward and backward pass of a chunk; the argument says whether it is the last one,
#: after which gradients are reduced over ranks.
Synchronise = Callable[[bool], AbstractContextManager[Any]]


class Gradients(NamedTuple):
    """What is known once the gradients are accumulated; both are detached scalars on the device."""

    loss: Tensor
    scale: Tensor


def accumulate_gradients(
    objective: Objective[BatchT],
    model: Model,
    batch: BatchT,
    *,
    chunks: int,
    backward: Backward,
    synchronise: Synchronise,
    mean_over_ranks: Callable[[Tensor], Tensor],
) -> Gradients:
    """Add the gradient of the objective on ``batch`` to the parameters of ``model``.

    Args:
        chunks: parts the batch is computed in; 1 is the plain step. The result is the same.
        backward: back-propagates a scalar, times a loss scale if there is one.
        synchronise: see :data:`Synchronise`.
        mean_over_ranks: mean of a scalar over ranks.

    A loss that is not finite on any rank makes the gradients NaN on every rank, so that whoever
    steps needs to look at gradients only.
    """
    *early, last = batch.chunk(chunks) if chunks > 1 else [batch]
    first = [_without_activations(objective, model, part) for part in early]
    with synchronise(not early):
        features = objective.features(model, last)
        value, row_grads, scale_grad = _loss_pass(
            objective, [*(known for _, known in first), features], batch, mean_over_ranks
        )
        backward(_surrogate(features, [grads[-1] for grads in row_grads], scale_grad))
    result = Gradients(value, _scale(features))
    del features

    # The log-scale enters the loss once, not once per chunk. The zero keeps every parameter part of
    # every backward pass, which engines that reduce in hooks rely on.
    nothing = torch.zeros_like(scale_grad)
    for index, (part, (state, _)) in enumerate(zip(early, first, strict=True)):
        with synchronise(index == len(early) - 1), _replayed(state):
            features = objective.features(model, part)
            backward(_surrogate(features, [grads[index] for grads in row_grads], nothing))
    return result


def _surrogate(features: Features, row_grads: Sequence[Tensor], scale_grad: Tensor) -> Tensor:
    """A scalar whose gradient by the features is ``row_grads``, and by the log-scale its own."""
    scalar = (features.logit_scale * scale_grad).sum()
    for rows, grads in zip(features.rows, row_grads, strict=True):
        scalar = scalar + (rows * grads).sum()
    return scalar


def _one_if_finite(value: Tensor) -> Tensor:
    return 1 + (value - value)


def _scale(features: Features) -> Tensor:
    return features.logit_scale.detach().float().exp().reshape(())


def _without_activations(
    objective: Objective[BatchT], model: Model, part: BatchT
) -> tuple[RandomState, Features]:
    """The features of a chunk, detached, and the random state from which they were computed."""
    state = RandomState.now()
    with torch.no_grad():
        return state, objective.features(model, part)


def _loss_pass(
    objective: Objective[BatchT],
    chunks: Sequence[Features],
    batch: BatchT,
    mean_over_ranks: Callable[[Tensor], Tensor],
) -> tuple[Tensor, list[tuple[Tensor, ...]], Tensor]:
    """The loss over ranks, its gradient by the rows of each chunk, and by the log-scale."""
    by_kind = zip(*(chunk.rows for chunk in chunks), strict=True)
    rows = [torch.cat(parts).detach().requires_grad_() for parts in by_kind]
    logit_scale = chunks[0].logit_scale.detach().requires_grad_()
    loss = objective.loss(tuple(rows), logit_scale, batch)
    value = mean_over_ranks(loss)
    *grads, scale_grad = torch.autograd.grad(loss * _one_if_finite(value), [*rows, logit_scale])
    lengths = [len(chunk.rows[0]) for chunk in chunks]
    return value, [torch.split(grad, lengths) for grad in grads], scale_grad


class RandomState(NamedTuple):
    """The state of torch's generators on the CPU and on the current GPU, if there is one."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls) -> RandomState:
        """The current state."""
        return cls(
            torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        )

    def restore(self) -> None:
        """Make the generators continue from this state."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)


@contextmanager
def _replayed(state: RandomState) -> Iterator[None]:
    """Draw the numbers that followed ``state``, then continue as if they had not been drawn."""
    outer = RandomState.now()
    state.restore()
    try:
        yield
    finally:
        outer.restore()

"""The gradient of a batch whose activations do not fit in memory, chunk by chunk, exact.

A separable loss is a sum over samples: its chunks are computed one after the other. A coupled loss
depends on the parameters only through the outputs, so dL/dθ = Σ_c J_cᵀ d_c over chunks c with
d = dL/doutputs. First the outputs of all chunks are computed, of all but the last without
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

from florence.distributed.objective import BatchT, Loss, Model, Objective

Backward = Callable[[Tensor], None]
#: Wraps the forward and backward pass of a chunk; the argument says whether it is the last one,
#: after which gradients are reduced over ranks.
Synchronise = Callable[[bool], AbstractContextManager[Any]]


def accumulate_gradients(
    objective: Objective[BatchT],
    model: Model,
    batch: BatchT,
    *,
    chunks: int,
    backward: Backward,
    synchronise: Synchronise,
    mean_over_ranks: Callable[[Tensor], Tensor],
) -> Loss:
    """Add the gradient of the objective on ``batch`` to the parameters of ``model``.

    Args:
        chunks: parts the batch is computed in; 1 is the plain step. The result is the same.
        backward: back-propagates a scalar, times a loss scale if there is one.
        synchronise: see :data:`Synchronise`.
        mean_over_ranks: mean of a scalar over ranks.

    Returns:
        The loss, its value the mean over ranks and its metrics this rank's; all detached.

    A loss that is not finite on any rank puts NaN into the gradients of every rank, so that whoever
    steps needs to look at gradients only.
    """
    prepared = objective.prepare(batch)
    parts = list(batch.chunk(chunks)) if chunks > 1 else [batch]
    run = _coupled if objective.coupled and len(parts) > 1 else _separable
    return run(objective, model, batch, parts, prepared, backward, synchronise, mean_over_ranks)


def _separable(
    objective: Objective[BatchT],
    model: Model,
    batch: BatchT,
    parts: Sequence[BatchT],
    prepared: Any,
    backward: Backward,
    synchronise: Synchronise,
    mean_over_ranks: Callable[[Tensor], Tensor],
) -> Loss:
    total, metrics = torch.zeros(()), dict[str, Tensor]()
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        with synchronise(is_last):
            loss = objective.loss(objective.outputs(model, part), part, prepared)
            _add(metrics, loss)
            total = loss.value.detach() if number == 0 else total + loss.value.detach()
            value = loss.value
            if is_last:
                total = mean_over_ranks(total)
                value = value * _one_if_finite(total)
            backward(value)
    return Loss(total, metrics)


def _coupled(
    objective: Objective[BatchT],
    model: Model,
    batch: BatchT,
    parts: Sequence[BatchT],
    prepared: Any,
    backward: Backward,
    synchronise: Synchronise,
    mean_over_ranks: Callable[[Tensor], Tensor],
) -> Loss:
    *early, last = parts
    first = [_without_activations(objective, model, part) for part in early]
    with synchronise(False):
        outputs = objective.outputs(model, last)
        loss, grads = _loss_pass(
            objective, [*(known for _, known in first), outputs], batch, prepared, mean_over_ranks
        )
        backward(_surrogate(outputs, grads[-1]))
    del outputs
    for index, (part, (state, _)) in enumerate(zip(early, first, strict=True)):
        with synchronise(index == len(early) - 1), _replayed(state):
            backward(_surrogate(objective.outputs(model, part), grads[index]))
    return loss


def _add(metrics: dict[str, Tensor], loss: Loss) -> None:
    for name, value in loss.metrics.items():
        metrics[name] = metrics[name] + value.detach() if name in metrics else value.detach()


def _surrogate(outputs: Sequence[Tensor], grads: Sequence[Tensor]) -> Tensor:
    """A scalar whose gradient by the outputs is ``grads``."""
    terms = [(output * grad).sum() for output, grad in zip(outputs, grads, strict=True)]
    return torch.stack([term.reshape(()) for term in terms]).sum()


def _one_if_finite(value: Tensor) -> Tensor:
    return 1 + (value - value)


def _without_activations(
    objective: Objective[BatchT], model: Model, part: BatchT
) -> tuple[RandomState, tuple[Tensor, ...]]:
    """The outputs of a chunk, detached, and the random state from which they were computed."""
    state = RandomState.now()
    with torch.no_grad():
        return state, objective.outputs(model, part)


def _loss_pass(
    objective: Objective[BatchT],
    chunks: Sequence[tuple[Tensor, ...]],
    batch: BatchT,
    prepared: Any,
    mean_over_ranks: Callable[[Tensor], Tensor],
) -> tuple[Loss, list[tuple[Tensor, ...]]]:
    """The loss over ranks, and its gradient by the outputs of each chunk."""
    leaves = [torch.cat(kind).detach().requires_grad_() for kind in zip(*chunks, strict=True)]
    loss = objective.loss(tuple(leaves), batch, prepared)
    value = mean_over_ranks(loss.value)
    grads = torch.autograd.grad(loss.value * _one_if_finite(value), leaves, materialize_grads=True)
    by_kind = [
        torch.split(grad, [len(chunk[kind]) for chunk in chunks]) for kind, grad in enumerate(grads)
    ]
    metrics = {name: metric.detach() for name, metric in loss.metrics.items()}
    return Loss(value, metrics), list(zip(*by_kind, strict=True))


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

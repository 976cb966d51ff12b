"""What happens within a few-shot episode: a head, or head and tower, learn from the support."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from florence.evaluation.metrics import from_logits

Features = Callable[[Tensor], Tensor]
"""Images ``(B, 3, R, R)`` to features ``(B, D)``."""


@dataclass(frozen=True, kw_only=True)
class EpisodeTraining:
    """How an episode is trained; the defaults are the paper's, which swaps momentum and rate."""

    epochs: int = 100
    batch_size: int = 4
    """Support images a step."""
    backbone_lr: float = 2e-4
    backbone_momentum: float = 0.9
    head_lr: float = 1e-2
    head_momentum: float = 0.99
    weight_decay: float = 0.0
    dropout: float = 0.5
    """Probability in [0, 1), before the linear layer."""
    flip: bool = True
    """Mirror every training image with probability 1/2; average the logits of both at test."""


PAPER = EpisodeTraining()


def train_episode(
    backbone: nn.Module,
    features: Features,
    support: Tensor,
    query: Tensor,
    *,
    seed: int,
    training: EpisodeTraining = PAPER,
) -> float:
    """Fine-tune tower and head on the support and classify the query.

    The tower's parameters and buffers, modes and gradients are exactly as before afterwards, and
    so is the global random state, also when the episode fails.

    Args:
        backbone: the tower, on the device of the images.
        features: what the tower makes of images, such as its output before the projection.
        support: fp32 ``(N, K, 3, R, R)``, normalised; row n is the episode's class n.
        query: fp32 ``(N, Q, 3, R, R)``, normalised.
        seed: of the head, the order, dropout and flips.
        training: the numbers.

    Returns:
        The fraction of the query that is classified right, in [0, 1]; a tie is wrong.
    """
    with _seeded(seed, support.device), _restored(backbone):
        backbone.eval()  # no draw and no statistics from this look at the width
        with torch.no_grad():
            width = features(support[0, :1]).shape[1]
        backbone.train()
        head = _head(width, len(support), training, support.device)
        groups = [
            {
                "params": [p for p in backbone.parameters() if p.requires_grad],
                "lr": training.backbone_lr,
                "momentum": training.backbone_momentum,
            },
            _head_group(head, training),
        ]
        # A tower that is frozen throughout has no group: an optimizer refuses an empty one.
        optimizer = torch.optim.SGD(
            [group for group in groups if group["params"]], weight_decay=training.weight_decay
        )
        images, labels = _flat(support)
        for rows in _batches(len(images), training):
            batch = _flipped(images[rows]) if training.flip else images[rows]
            loss = F.cross_entropy(head(features(batch)), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
        backbone.eval()
        head.eval()
        return _accuracy(lambda batch: head(features(batch)), query, training)


def train_head(
    support: Tensor,
    query: Tensor,
    *,
    seed: int,
    support_flipped: Tensor | None = None,
    query_flipped: Tensor | None = None,
    training: EpisodeTraining = PAPER,
) -> float:
    """Train a head on features of a frozen tower, computed once; the fast variant of an episode.

    Args:
        support: fp32 ``(N, K, D)`` features; row n is the episode's class n.
        query: fp32 ``(N, Q, D)``.
        seed: of the head, the order, dropout and flips.
        support_flipped: features of the mirrored images, for ``training.flip``. Default: no flips.
        query_flipped: likewise.
        training: the numbers; those of the backbone play no part.

    Returns:
        The fraction of the query that is classified right, in [0, 1]; a tie is wrong.
    """
    with _seeded(seed, support.device):
        head = _head(support.shape[-1], len(support), training, support.device)
        optimizer = torch.optim.SGD(
            [_head_group(head, training)], weight_decay=training.weight_decay
        )
        plain, labels = _flat(support)
        mirrored = None if support_flipped is None else _flat(support_flipped)[0]
        for rows in _batches(len(plain), training):
            batch = plain[rows]
            if training.flip and mirrored is not None:
                batch = torch.where(_coins(len(rows), batch), mirrored[rows], batch)
            loss = F.cross_entropy(head(batch), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
        head.eval()
        with torch.no_grad():
            logits = head(_flat(query)[0])
            if training.flip and query_flipped is not None:
                logits = (logits + head(_flat(query_flipped)[0])) / 2
        return from_logits(logits.cpu(), _flat(query)[1].cpu()).top1


def _head(width: int, classes: int, training: EpisodeTraining, device: torch.device) -> nn.Module:
    return nn.Sequential(nn.Dropout(training.dropout), nn.Linear(width, classes)).to(device)


def _head_group(head: nn.Module, training: EpisodeTraining) -> dict[str, object]:
    return {
        "params": list(head.parameters()),
        "lr": training.head_lr,
        "momentum": training.head_momentum,
    }


def _flat(episode: Tensor) -> tuple[Tensor, Tensor]:
    """``(N, K, …)`` as ``(N * K, …)`` with the class of every row."""
    classes, each = episode.shape[:2]
    labels = torch.arange(classes, device=episode.device).repeat_interleave(each)
    return episode.flatten(0, 1), labels


def _batches(count: int, training: EpisodeTraining) -> Iterator[Tensor]:
    """Row numbers of every step: each epoch all rows once in a new order."""
    for _ in range(training.epochs):
        yield from torch.split(torch.randperm(count), training.batch_size)


def _coins(count: int, like: Tensor) -> Tensor:
    coins = torch.rand(count).lt(0.5).to(like.device)
    return coins.reshape(-1, *(1,) * (like.ndim - 1))


def _flipped(images: Tensor) -> Tensor:
    return torch.where(_coins(len(images), images), images.flip(-1), images)


def _accuracy(logits: Features, query: Tensor, training: EpisodeTraining) -> float:
    """Class by class, so that the memory is that of a training step's size, not of the episode."""
    rows = []
    with torch.no_grad():
        for images in query:
            found = logits(images)
            if training.flip:
                found = (found + logits(images.flip(-1))) / 2
            rows.append(found.float().cpu())
    return from_logits(torch.cat(rows), _flat(query)[1].cpu()).top1


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeded generators inside, the global ones as before outside."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Put parameters, buffers, gradients and modes back to what they were, to the last bit."""
    tensors = [*module.parameters(), *module.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    gradients = {parameter: parameter.grad for parameter in module.parameters()}
    modes = {part: part.training for part in module.modules()}
    for parameter in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        for part, training in modes.items():
            part.training = training

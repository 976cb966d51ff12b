"""Batches through the towers: the part of evaluation that runs the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from florence.config import Precision
from florence.models.precision import autocast
from florence.models.two_tower import TwoTower

Tokenize = Callable[[Sequence[str], int], Tensor]
"""``florence.text.tokenizer.tokenize``: texts to int64 ``(B, context)``, padded with 0."""


@contextmanager
def inference(model: TwoTower, precision: Precision = Precision.FP32) -> Iterator[torch.device]:
    """Evaluation mode, no gradients and autocast while the block runs; yields the model's device.

    The model's mode is restored afterwards, also when the block fails.
    """
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with (
            torch.no_grad(),  # not inference_mode: a mask cached in it could not be trained with
            autocast(device.type, precision),
        ):
            yield device
    finally:
        for module, training in modes.items():
            module.training = training


def embed_images(
    model: TwoTower, batches: Iterable[Tensor], *, precision: Precision = Precision.FP32
) -> Tensor:
    """Embeddings of batches of images in their order.

    Args:
        model: the two-tower model; its mode is left as it was.
        batches: fp32 ``(B, 3, R, R)``, normalised as the model was trained.

    Returns:
        ``(N, D)`` fp32 of unit length on the CPU; ``(0, D)`` when there are no batches.
    """
    with inference(model, precision) as device:
        rows = [
            model.encode_image(images.to(device, non_blocking=True)).float().cpu()
            for images in batches
        ]
    return _stack(rows, model)


def embed_texts(
    model: TwoTower,
    tokenizer: Tokenize,
    texts: Sequence[str],
    *,
    batch_size: int = 256,
    precision: Precision = Precision.FP32,
) -> Tensor:
    """Embeddings of texts in their order; equal texts are computed once.

    Returns:
        ``(len(texts), D)`` fp32 of unit length on the CPU.
    """
    context = model.architecture.text.context
    unique = list(dict.fromkeys(texts))
    # Similar lengths share a batch: columns after a batch's last token are cut, which is exact
    # for a causal tower and saves most of the work on short texts.
    unique.sort(key=len)
    rows = []
    with inference(model, precision) as device:
        for start in range(0, len(unique), batch_size):
            ids = tokenizer(unique[start : start + batch_size], context)
            # The end token is never 0, although "!" is: so not the number of ids that are not 0.
            used = int((ids != 0).any(dim=0).nonzero().max()) + 1
            ids = ids[:, :used]
            rows.append(model.encode_text(ids.to(device)).float().cpu())
    position = {text: row for row, text in enumerate(unique)}
    order = torch.tensor([position[text] for text in texts], dtype=torch.int64)
    return _stack(rows, model)[order]


def _stack(rows: list[Tensor], model: TwoTower) -> Tensor:
    if not rows:
        return torch.zeros(0, model.architecture.embed_dim)
    return torch.cat(rows)

"""Batches through the towers: the part of evaluation that runs the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from florence.config import Precision
from florence.evaluation.models import ImageTextEncoder, Model, inference

__all__ = ["Tokenize", "Watch", "embed_images", "embed_texts", "inference", "model_outputs"]

Tokenize = Callable[[Sequence[str], int], Tensor]
"""``florence.text.tokenizer.tokenize``: texts to int64 ``(B, context)``, padded with 0."""

Watch = Callable[[int], None]
"""Called after every batch with the number of its images or texts; may raise to stop."""


def unwatched(count: int) -> None:
    """Nobody watches."""


def embed_images(
    model: ImageTextEncoder,
    batches: Iterable[Tensor],
    *,
    precision: Precision = Precision.FP32,
    watch: Watch = unwatched,
) -> Tensor:
    """Embeddings of batches of images in their order.

    Args:
        model: the two-tower model; its mode is left as it was.
        batches: fp32 ``(B, 3, R, R)``, normalised as the model was trained.
        precision: of the matrix products.
        watch: see :data:`Watch`.

    Returns:
        ``(N, D)`` fp32 of unit length on the CPU; ``(0, D)`` when there are no batches.
    """
    rows = model_outputs(model, model.encode_image, batches, precision=precision, watch=watch)
    return rows if len(rows) else torch.zeros(0, model.architecture.embed_dim)


def model_outputs(
    model: Model,
    function: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor],
    *,
    precision: Precision = Precision.FP32,
    watch: Watch = unwatched,
) -> Tensor:
    """Rows of what a function of the model makes of batches, in their order.

    Args:
        model: whose mode is set and left as it was.
        function: ``(B, …)`` on the model's device to ``(B, C)``; the model itself, or a tower.
        batches: on any device.
        precision: of the matrix products.
        watch: see :data:`Watch`.

    Returns:
        ``(N, C)`` fp32 on the CPU; ``(0, 0)`` when there are no batches.
    """
    rows = []
    with inference(model, precision) as device:
        for batch in batches:
            rows.append(function(batch.to(device, non_blocking=True)).float().cpu())
            watch(len(batch))
    return torch.cat(rows) if rows else torch.zeros(0, 0)


def embed_texts(
    model: ImageTextEncoder,
    tokenizer: Tokenize,
    texts: Sequence[str],
    *,
    batch_size: int = 256,
    precision: Precision = Precision.FP32,
    watch: Watch = unwatched,
) -> Tensor:
    """Embeddings of texts in their order; equal texts are computed once.

    Returns:
        ``(len(texts), D)`` fp32 of unit length on the CPU.
    """
    unique = list(dict.fromkeys(texts))
    if not unique:
        return torch.zeros(0, model.architecture.embed_dim)
    # Similar lengths share a batch: columns after a batch's last token are cut, which is exact
    # for a causal tower and saves most of the work on short texts.
    unique.sort(key=len)
    rows = embed_in_order(
        model, tokenizer, unique, batch_size=batch_size, precision=precision, watch=watch
    )
    position = {text: row for row, text in enumerate(unique)}
    return rows[torch.tensor([position[text] for text in texts], dtype=torch.int64)]


def embed_in_order(
    model: ImageTextEncoder,
    tokenizer: Tokenize,
    texts: Sequence[str],
    *,
    batch_size: int,
    precision: Precision = Precision.FP32,
    watch: Watch = unwatched,
) -> Tensor:
    """Embeddings of at least one text, in exactly ``ceil(len(texts) / batch_size)`` batches."""
    context = model.architecture.text.context

    def encode(ids: Tensor) -> Tensor:
        # The end token is never 0, although "!" is: so not the number of ids that are not 0.
        used = int((ids != 0).any(dim=0).nonzero().max()) + 1
        return model.encode_text(ids[:, :used])

    batches = (
        tokenizer(texts[start : start + batch_size], context)
        for start in range(0, len(texts), batch_size)
    )
    return model_outputs(model, encode, batches, precision=precision, watch=watch)

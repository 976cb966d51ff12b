"""Zero-shot classification: images and class descriptions meet in the embedding space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from florence.config import Precision
from florence.evaluation.embed import Tokenize, embed_texts
from florence.evaluation.metrics import ClassificationResult, check_labels, from_blocks
from florence.evaluation.models import ImageTextEncoder
from florence.evaluation.ranking import rows_per_block
from florence.text.templates import render


def class_embeddings(
    model: ImageTextEncoder,
    tokenizer: Tokenize,
    classes: Sequence[str],
    templates: Sequence[str],
    *,
    batch_size: int = 256,
    precision: Precision = Precision.FP32,
) -> Tensor:
    """One direction per class: the ensemble of its name in every template (CLIP's, Florence's).

    Args:
        model: the two-tower model; its mode is left as it was.
        tokenizer: texts to ids, ``florence.text.tokenizer.tokenize``.
        classes: the C class names.
        templates: the T templates, ``{}`` where the name goes.

    Returns:
        ``(C, D)`` fp32 of unit length on the CPU.
    """
    texts = [render(template, name) for name in classes for template in templates]
    embeddings = embed_texts(model, tokenizer, texts, batch_size=batch_size, precision=precision)
    return ensemble(embeddings.reshape(len(classes), len(templates), -1))


def ensemble(embeddings: Tensor) -> Tensor:
    """``(C, T, D)`` to ``(C, D)``: each to unit length, averaged over T, to unit length again."""
    mean = F.normalize(embeddings.float(), dim=-1).mean(dim=1)
    return F.normalize(mean, dim=-1)


def zero_shot(
    image_embeddings: Tensor,
    class_embeddings: Tensor,
    labels: Tensor,
    *,
    same_as: Tensor | None = None,
) -> ClassificationResult:
    """Classify every image as the class whose embedding is nearest by cosine.

    An image is right at k when fewer than k other classes score at least as high as its own.

    Args:
        image_embeddings: ``(N, D)``, of unit length.
        class_embeddings: ``(C, D)``, of unit length.
        labels: ``(N,)`` int64 in ``[0, C)``.
        same_as: see :func:`first_of_name`. Default: all classes differ.

    Raises:
        DataError: there are no images, or a label names no class.
    """
    classes = class_embeddings.float()
    check_labels(labels, len(classes))
    # The scores of a text are taken from its first class: equal columns of a matrix product need
    # not be equal to the last bit.
    columns = torch.arange(len(classes)) if same_as is None else same_as
    blocks = (
        (rows.float() @ classes.T)[:, columns]
        for rows in torch.split(image_embeddings, rows_per_block(len(classes)))
    )
    return from_blocks(blocks, labels, len(classes), same_as)


def first_of_name(classes: Sequence[str]) -> Tensor | None:
    """``(C,)`` int64, for every class the first with its name; None when all names differ.

    CLIP's names for ImageNet have two pairs of equals.
    """
    first: dict[str, int] = {}
    rows = [first.setdefault(name, row) for row, name in enumerate(classes)]
    return torch.tensor(rows) if len(first) < len(classes) else None

"""Zero-shot classification: images and class descriptions meet in the embedding space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from florence.config import Precision
from florence.errors import DataError
from florence.evaluation.embed import Tokenize, embed_texts
from florence.evaluation.ranking import hit_rate, pessimistic_ranks, rows_per_block
from florence.models.two_tower import TwoTower
from florence.text.templates import render


@dataclass(frozen=True)
class ClassificationResult:
    """Accuracies are fractions of 1; ``confusion[t, p]`` counts images of t predicted as p."""

    top1: float
    top5: float
    mean_per_class: float
    confusion: Tensor


def class_embeddings(
    model: TwoTower,
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
    image_embeddings: Tensor, class_embeddings: Tensor, labels: Tensor
) -> ClassificationResult:
    """Classify every image as the class whose embedding is nearest by cosine.

    An image is right at k when fewer than k other classes score at least as high as its own.

    Args:
        image_embeddings: ``(N, D)``, of unit length.
        class_embeddings: ``(C, D)``, of unit length.
        labels: ``(N,)`` int64 in ``[0, C)``.

    Raises:
        DataError: there are no images, or a label names no class.
    """
    classes = len(class_embeddings)
    if not len(labels):
        raise DataError("classification: there are no images; check the data's URI")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        wrong = sorted({int(y) for y in labels if not 0 <= int(y) < classes})
        raise DataError(
            f"classification: label {wrong[0]} names none of the {classes} classes of the prompts: "
            "list one class per label, in the order of the labels"
        )
    ranks, predicted = _in_blocks(image_embeddings, class_embeddings, labels)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    confusion.index_put_((labels, predicted), torch.ones_like(labels), accumulate=True)
    return ClassificationResult(
        top1=hit_rate(ranks, 1),
        top5=hit_rate(ranks, 5),
        mean_per_class=mean_per_class(ranks == 0, labels),
        confusion=confusion,
    )


def mean_per_class(correct: Tensor, labels: Tensor) -> float:
    """The mean over the classes that have images of the fraction of their images that are right.

    Args:
        correct: ``(N,)`` bool.
        labels: ``(N,)`` int64.
    """
    totals = torch.bincount(labels)
    hits = torch.bincount(labels[correct], minlength=len(totals))
    present = totals > 0
    return float((hits[present].double() / totals[present].double()).mean())


def _in_blocks(images: Tensor, classes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    ranks, predicted = [], []
    columns = torch.arange(len(classes))
    block = rows_per_block(len(classes))
    for rows, own_class in zip(torch.split(images, block), torch.split(labels, block), strict=True):
        scores = rows.float() @ classes.float().T
        own = scores.gather(1, own_class[:, None])[:, 0]
        ranks.append(pessimistic_ranks(scores, own, columns != own_class[:, None]))
        predicted.append(scores.argmax(dim=1))
    return torch.cat(ranks), torch.cat(predicted)

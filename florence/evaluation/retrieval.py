"""Image-text retrieval: recall at K both ways, with several captions per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from florence.errors import DataError
from florence.evaluation.ranking import (
    SCORES_PER_BLOCK,
    hit_rate,
    pessimistic_ranks,
    rows_per_block,
)


@dataclass(frozen=True)
class RetrievalResult:
    """Recalls are fractions of 1 by K; ranks count from 0."""

    image_to_text: dict[int, float]
    text_to_image: dict[int, float]
    image_ranks: Tensor
    text_ranks: Tensor


def recall_at_k(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    image_of_text: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    *,
    scores_per_block: int = SCORES_PER_BLOCK,
) -> RetrievalResult:
    """Recall of the right captions for every image, and of the right image for every caption.

    An image is a hit at K when any caption of its own is among its first K captions; a caption is a
    hit when its image is among its first K images. A foreign candidate that scores the same as the
    right one comes first. Memory is bounded by ``scores_per_block`` whatever the sizes.

    Args:
        image_embeddings: ``(N, D)``, of unit length.
        text_embeddings: ``(M, D)``, of unit length.
        image_of_text: ``(M,)`` int64, the row of the image that each caption describes.
        ks: cut-offs.

    Raises:
        DataError: an image has no caption, or a caption names no image.
    """
    images, texts = image_embeddings.float(), text_embeddings.float()
    _check(len(images), image_of_text)
    text_ranks = _ranks_of_images(images, texts, image_of_text, scores_per_block)
    image_ranks = _ranks_of_captions(images, texts, image_of_text, scores_per_block)
    return RetrievalResult(
        image_to_text={k: hit_rate(image_ranks, k) for k in ks},
        text_to_image={k: hit_rate(text_ranks, k) for k in ks},
        image_ranks=image_ranks,
        text_ranks=text_ranks,
    )


def recall_of_texts(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    texts: Sequence[str],
    image_of_text: Tensor,
    ks: Sequence[int] = (1, 5, 10),
) -> RetrievalResult:
    """:func:`recall_at_k` where equal captions are one: whichever images have it are right.

    Needs memory for every different caption by every image.

    Args:
        texts: the captions, of which the rows of ``text_embeddings`` are the embeddings.
    """
    _check(len(image_embeddings), image_of_text)
    first = {text: row for row, text in reversed(list(enumerate(texts)))}
    number = {text: index for index, text in enumerate(first)}
    belongs = torch.zeros(len(first), len(image_embeddings), dtype=torch.bool)
    belongs[torch.tensor([number[text] for text in texts]), image_of_text] = True
    rows = torch.tensor([first[text] for text in number])
    scores = text_embeddings[rows].float() @ image_embeddings.float().T
    text_ranks, image_ranks = _ranks_of_best(scores, belongs), _ranks_of_best(scores.T, belongs.T)
    return RetrievalResult(
        image_to_text={k: hit_rate(image_ranks, k) for k in ks},
        text_to_image={k: hit_rate(text_ranks, k) for k in ks},
        image_ranks=image_ranks,
        text_ranks=text_ranks,
    )


def recall_of_scores(
    of_texts: Tensor,
    of_images: Tensor,
    texts: Sequence[str] | None,
    image_of_text: Tensor,
    ks: Sequence[int] = (1, 5, 10),
) -> RetrievalResult:
    """Recalls of scores that need not be the same both ways.

    Args:
        of_texts: (M, N), how well images fit each text.
        of_images: (N, M), how well texts fit each image.
        texts: the captions, where equal ones are right for all of their images; ``None``: a
            caption is right for its own image only.
        image_of_text: (M,) int64, the row of the image that each caption describes.
        ks: cut-offs.
    """
    _check(len(of_images), image_of_text)
    belongs = image_of_text[:, None] == torch.arange(len(of_images))
    if texts is not None:
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        group = torch.tensor([numbers[text] for text in texts])
        known = torch.zeros(len(numbers), len(of_images), dtype=torch.bool)
        known[group, image_of_text] = True
        belongs = known[group]
    text_ranks = _ranks_of_best(of_texts, belongs)
    image_ranks = _ranks_of_best(of_images, belongs.T)
    return RetrievalResult(
        image_to_text={k: hit_rate(image_ranks, k) for k in ks},
        text_to_image={k: hit_rate(text_ranks, k) for k in ks},
        image_ranks=image_ranks,
        text_ranks=text_ranks,
    )


def _ranks_of_best(scores: Tensor, right: Tensor) -> Tensor:
    """Per row, how many wrong candidates come before the best right one."""
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1)
    return pessimistic_ranks(scores, best, ~right)


def _check(images: int, image_of_text: Tensor) -> None:
    if not images or not len(image_of_text):
        raise DataError("retrieval: there are no images with captions; check the data's URI")
    if int(image_of_text.min()) < 0 or int(image_of_text.max()) >= images:
        raise DataError(f"retrieval: a caption names none of the {images} images")
    lonely = torch.bincount(image_of_text, minlength=images) == 0
    if bool(lonely.any()):
        raise DataError(f"retrieval: image {int(lonely.nonzero()[0])} has no caption")


def _ranks_of_images(images: Tensor, texts: Tensor, image_of_text: Tensor, budget: int) -> Tensor:
    """Per caption, how many foreign images come before its own."""
    columns = torch.arange(len(images))
    block = rows_per_block(len(images), budget)
    ranks = []
    for rows, own_image in zip(
        torch.split(texts, block), torch.split(image_of_text, block), strict=True
    ):
        scores = rows @ images.T
        own = scores.gather(1, own_image[:, None])[:, 0]
        ranks.append(pessimistic_ranks(scores, own, columns != own_image[:, None]))
    return torch.cat(ranks)


def _ranks_of_captions(images: Tensor, texts: Tensor, image_of_text: Tensor, budget: int) -> Tensor:
    """Per image, how many foreign captions come before the best of its own."""
    block = rows_per_block(len(texts), budget)
    ranks = []
    for start, rows in zip(range(0, len(images), block), torch.split(images, block), strict=True):
        scores = rows @ texts.T
        own_image = torch.arange(start, start + len(rows))
        foreign = image_of_text != own_image[:, None]
        best = scores.masked_fill(foreign, -torch.inf).amax(dim=1)
        ranks.append(pessimistic_ranks(scores, best, foreign))
    return torch.cat(ranks)

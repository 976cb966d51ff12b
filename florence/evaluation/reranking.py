"""The best candidates of a retrieval in a new order: that of a head which sees image and text.

Towers compare every text with every image at the cost of one pass each; a fusion needs a pass for
every pair, and so gets the towers' best candidates only (ALBEF, arXiv 2107.07651, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from florence.data.labelled import Images
from florence.evaluation.context import EvaluationContext
from florence.evaluation.embed import inference
from florence.evaluation.models import Model

ABOVE = 2.0
"""What is added to matching probabilities: more than any cosine, so that no other comes between."""


@runtime_checkable
class Matcher(Model, Protocol):
    """A model that tells whether image and text belong together."""

    def image_tokens(self, images: Tensor) -> Tensor:
        """(B, 3, R, R) to (B, N, C)."""

    def match_texts(self, tokens: Tensor, texts: Sequence[str]) -> Tensor:
        """Probabilities (B,) that images, by their tokens (B, N, C), and texts belong together."""


def reranked(
    context: EvaluationContext,
    model: Matcher,
    images: Images,
    texts: Sequence[str],
    scores: Tensor,
    count: int,
) -> tuple[Tensor, Tensor]:
    """Scores of texts and images, both ways, with the best candidates in the head's order.

    Every rank holds the tokens of all images. Collective.

    Args:
        context: of the evaluation.
        model: has the head.
        images: N of them.
        texts: M of them.
        scores: (M, N) cosines by the towers.
        count: candidates of each text, and of each image.

    Returns:
        (M, N) for texts that look for images and (N, M) for images that look for texts; in each
        row the candidates have 2 plus the probability that they match.
    """
    tokens = context.over_images(images, model, lambda batch: model.image_tokens(batch).flatten(1))
    with inference(model, context.precision) as device:
        one = torch.zeros(1, 3, context.resolution, context.resolution, device=device)
        channels = model.image_tokens(one).shape[2]
    tokens = tokens.view(len(images), -1, channels)
    both = []
    for table, is_image in ((scores, False), (scores.T, True)):
        best = table.topk(min(count, table.shape[1]), dim=1).indices
        rows = torch.arange(len(table)).repeat_interleave(best.shape[1])
        others = best.reshape(-1)
        pairs = (others, rows) if is_image else (rows, others)
        matches = _matches(context, model, tokens, texts, *pairs)
        new = table.clone().contiguous()
        new[rows, others] = ABOVE + matches
        both.append(new)
    return both[0], both[1]


def _matches(
    context: EvaluationContext,
    model: Matcher,
    tokens: Tensor,
    texts: Sequence[str],
    of_text: Tensor,
    of_image: Tensor,
) -> Tensor:
    """Probabilities of pairs, given by the numbers of their texts and images: (P,)."""

    def rows(share: Sequence[int]) -> Tensor:
        found = []
        with inference(model, context.precision) as device:
            for start in range(0, len(share), context.batch_size):
                chosen = torch.tensor(share[start : start + context.batch_size])
                said = [texts[i] for i in of_text[chosen].tolist()]
                seen = tokens[of_image[chosen]].to(device)
                found.append(model.match_texts(seen, said).float().cpu()[:, None])
                context.watch(len(chosen))
        return torch.cat(found)

    return context.dealt(len(of_text), rows)[:, 0]

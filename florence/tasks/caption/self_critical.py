"""Self-critical training: captions that a model draws are made likelier the better they are.

The gradient is REINFORCE's with CIDEr-D as the reward (arXiv 1612.00563). What a caption is
measured against is the mean reward of the others that were drawn of its image (arXiv 2003.09971):
without bias, and without a second decoding.

Shapes: B images, S texts of each, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from florence.distributed.objective import Loss, Model
from florence.models.bert import mask_of
from florence.models.generation import sample_by
from florence.tasks.caption.model import CaptionModel
from florence.tasks.caption.references import ReferencedBatch, ended
from florence.text.caption_metrics import CiderWeights, words_of


class SelfCriticalModel(CaptionModel):
    """A caption model whose forward pass draws texts and says how probable they are."""

    def forward(self, images: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Draw as in evaluation, and run what was drawn as in training.

        Args:
            images: (B, 3, H, W).
            chances: float64 (B, S, T) in [0, 1), see :func:`florence.models.generation.sample_by`.

        Returns:
            Log-probabilities of the texts, float32 (B, S), and their tokens without start, int64
            (B, S, T), padded behind the end.
        """
        drawn = self.drawn(images, chances)
        coder = self.shape.coder
        count, samples, _ = chances.shape
        start = torch.full_like(drawn[:, :1], coder.start)
        ids = torch.cat([start, drawn], dim=1)
        lengths = 1 + lengths_of(drawn, coder.end)
        pixels = self.image_tokens(images).repeat_interleave(samples, dim=0)
        fused = self.fuse(pixels, ids, lengths)
        before_last = mask_of(lengths - 1, ids.shape[1])
        logs = self.head(fused.text[before_last]).float().log_softmax(dim=-1)
        words = ids[:, 1:][before_last[:, :-1]]
        chosen = logs.gather(1, words[:, None])[:, 0]
        rows = torch.arange(len(ids), device=ids.device).repeat_interleave(lengths - 1)
        texts = chosen.new_zeros(len(ids)).index_add(0, rows, chosen)
        return texts.view(count, samples), drawn.view(count, samples, -1)

    @torch.no_grad()
    def drawn(self, images: Tensor, chances: Tensor) -> Tensor:
        """The tokens of the texts alone: (B S, t), t at most T."""
        training = self.training
        self.eval()
        try:
            state = self.start(images)
            return sample_by(self, state, self.writing(), chances.flatten(0, 1)).tokens
        finally:
            self.train(training)


class SelfCriticalObjective:
    """Minus the expected CIDEr-D; the mean over images and their texts.

    Metrics: ``reward``, the mean CIDEr-D of what was drawn, and ``drawn_words``, its mean length.

    Args:
        texts: what tokens (n, T) say.
        end: the token that ends a text.
        weights: of the training captions, which have their end as a word.
    """

    coupled = False

    def __init__(
        self, texts: Callable[[Tensor], list[str]], end: int, weights: CiderWeights
    ) -> None:
        self._texts = texts
        self._end = end
        self._weights = weights

    def prepare(self, batch: ReferencedBatch) -> int:
        """The rank's images."""
        return len(batch)

    def outputs(self, model: Model, chunk: ReferencedBatch) -> tuple[Tensor, ...]:
        """See :meth:`SelfCriticalModel.forward`."""
        found: tuple[Tensor, ...] = model(chunk.images, chunk.chances)
        return found

    def loss(self, outputs: tuple[Tensor, ...], batch: ReferencedBatch, prepared: int) -> Loss:
        """The chunk's part of the mean."""
        logs, tokens = outputs
        samples = logs.shape[1]
        rewards = self.rewards(tokens, batch.references).to(logs)
        others = (rewards.sum(dim=1, keepdim=True) - rewards) / (samples - 1)
        value = -((rewards - others) * logs).sum() / (samples * prepared)
        words = lengths_of(tokens.flatten(0, 1), self._end).sum()
        return Loss(
            value,
            {
                "reward": rewards.sum() / (samples * prepared),
                "drawn_words": words / (samples * prepared),
            },
        )

    def rewards(self, tokens: Tensor, references: Sequence[Sequence[str]]) -> Tensor:
        """CIDEr-D of texts (B, S, T) by their image's captions: (B, S), in [0, 10]."""
        flat = tokens.flatten(0, 1)
        ends = (flat == self._end).any(dim=1).tolist()
        texts = self._texts(flat)
        said = [ended(t) if end else words_of(t) for t, end in zip(texts, ends, strict=True)]
        known = [[ended(text) for text in group] for group in references]
        samples = tokens.shape[1]
        scores = [self._weights.score(each, known[i // samples]) for i, each in enumerate(said)]
        return torch.tensor(scores).view(tokens.shape[:2])


def lengths_of(tokens: Tensor, end: int) -> Tensor:
    """Tokens of texts (n, T) up to their end, with it: int64 (n,); all T without one."""
    is_end = tokens == end
    first = is_end.long().argmax(dim=1) + 1
    return torch.where(is_end.any(dim=1), first, tokens.shape[1])

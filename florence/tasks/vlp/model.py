"""A fusion of image and text that tells whether they match, and which words are hidden.

Shapes: B pairs in groups of G, L text tokens, N image tokens, M hidden tokens, V words.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from florence.config import Architecture
from florence.data.text_batches import padded
from florence.models.bert import mask_of
from florence.models.fusion import Fused, MatchHead, WordHead
from florence.models.stored import StoredModel
from florence.models.text import TextTransformer
from florence.models.vision_language import (
    BuildOptions,
    VisionLanguage,
    VisionLanguageShape,
    stored_model,
)
from florence.text.coding import coded
from florence.text.masking import IGNORED

SIMILARITY_SCALE = 1 / 0.07
"""What similarities are multiplied by before hard negatives are drawn: CLIP's first temperature."""


class Heads(nn.Module):
    """Matching and masked words."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.itm = MatchHead(2 * width)
        self.mlm = WordHead(width, vocabulary)


class PretrainingModel(VisionLanguage):
    """Both objectives of METER from one pass through the towers.

    Args:
        hard_negatives: draw them by the towers' similarity.
    """

    head: Heads

    def __init__(
        self,
        architecture: Architecture,
        shape: VisionLanguageShape,
        options: BuildOptions,
        *,
        hard_negatives: bool = False,
    ) -> None:
        vocabulary = shape.roberta.vocabulary if shape.roberta else shape.coder.vocabulary
        super().__init__(architecture, shape, options, Heads(shape.fusion.width, vocabulary))
        self.hard_negatives = hard_negatives

    def forward(
        self,
        images: Tensor,
        input_ids: Tensor,
        masked_ids: Tensor,
        targets: Tensor,
        lengths: Tensor,
        is_negative: Tensor,
        eligible: Tensor,
        chances: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The fields of a :class:`florence.tasks.vlp.data.CaptionedBatch`.

        Returns:
            Logits (B, 2) of matching, whether each text has its own image (B,) int64, and logits
            (M, V) at the hidden tokens in the order of the batch.
        """
        pixels = self.image_tokens(images)
        mask = mask_of(lengths, input_ids.shape[1]).repeat(2, 1)
        words = self.text_tokens(torch.cat([masked_ids, input_ids]), mask)
        similar = None
        if self.hard_negatives:
            similar = self._similarity(pixels, words[len(images) :], lengths, eligible.shape[1])
        rows = image_rows(is_negative, eligible, chances, similar)
        fused: Fused = self.fusion(words, mask, torch.cat([pixels, pixels[rows]]))
        hidden = fused.text[: len(images)][targets != IGNORED]
        second = Fused(fused.text[len(images) :], fused.image[len(images) :])
        own = rows == torch.arange(len(rows), device=rows.device)
        return self.head.itm(self.pooled(second, lengths)), own.long(), self.head.mlm(hidden)

    def match(self, images: Tensor, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Probabilities (B,) that images and texts belong together."""
        return self.match_tokens(self.image_tokens(images), input_ids, lengths)

    def match_tokens(self, pixels: Tensor, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """The same of image tokens (B, N, 8 width) that were computed before."""
        fused = self.fuse(pixels, input_ids, lengths)
        scores: Tensor = self.head.itm(self.pooled(fused, lengths)).float()
        return scores.softmax(dim=1)[:, 1]

    def match_texts(self, tokens: Tensor, texts: Sequence[str]) -> Tensor:
        """The same of texts as they are written."""
        coder, length = self.shape.coder, self.shape.text_length
        ids, lengths = padded([coded(coder, text, length) for text in texts], coder.padding, length)
        device = tokens.device
        return self.match_tokens(
            tokens, torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device)
        )

    @property
    def has_text_tower(self) -> bool:
        """Whether texts and images can be compared without fusion."""
        return isinstance(self.text, TextTransformer)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D) float32 of unit length, by the tower and its projection."""
        return F.normalize(self.image(images).float(), dim=-1)

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """(B, L) int64 of the Florence text tower to (B, D) float32 of unit length."""
        return F.normalize(self.text(input_ids).float(), dim=-1)

    @torch.no_grad()
    def _similarity(self, pixels: Tensor, words: Tensor, lengths: Tensor, group: int) -> Tensor:
        """Cosines of each text with the images of its group, scaled: (B, G)."""
        assert isinstance(self.text, TextTransformer)
        ends = words[torch.arange(len(words), device=words.device), lengths - 1]
        texts = F.normalize((ends @ self.text.text_projection).float(), dim=1)
        images = F.normalize(self.image.projection(pixels.mean(dim=1)).float(), dim=1)
        pairs = texts.view(-1, group, texts.shape[1]) @ images.view(
            -1, group, images.shape[1]
        ).transpose(1, 2)
        return SIMILARITY_SCALE * pairs.reshape(-1, group)


def image_rows(
    is_negative: Tensor, eligible: Tensor, chances: Tensor, similar: Tensor | None
) -> Tensor:
    """The row of the image that each text is put to: int64 (B,).

    Args:
        is_negative: (B,), whether it is another's. Where no other fits, it stays its own.
        eligible: bool (B, G), which of the group are others that do not fit the text.
        chances: (B,) in [0, 1), what decides between them.
        similar: (B, G), log-weights of the draw; ``None``: all alike.
    """
    own = torch.arange(len(is_negative), device=is_negative.device)
    weights = eligible.double()
    if similar is not None:
        weights = weights * (similar - similar.amax(dim=1, keepdim=True)).double().exp()
    rising = weights.cumsum(dim=1)
    total = rising[:, -1:]
    passed = (rising <= chances.double()[:, None] * total) | ~eligible
    # The first eligible one that is not passed; rounding may leave none, then the last eligible.
    last = (eligible * torch.arange(1, eligible.shape[1] + 1, device=own.device)).argmax(dim=1)
    chosen = torch.where(passed.all(dim=1), last, (~passed).long().argmax(dim=1))
    start = own - own % eligible.shape[1]
    return torch.where(is_negative & eligible.any(dim=1), start + chosen, own)


def pretraining_model_of(stored: StoredModel, device: torch.device) -> PretrainingModel:
    """The model of a stored one, ready for evaluation. Raises :class:`DataError`."""
    card = stored.card
    shape = VisionLanguageShape.of(card, stored.uri)
    options = BuildOptions(window=card.window)
    return stored_model(lambda: PretrainingModel(card.architecture, shape, options), stored, device)

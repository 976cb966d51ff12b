"""A decoder of captions: texts that see the image and their own words before.

Shapes: B images, L text tokens, M predicted tokens, V words, n texts that are being written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from florence.config import Architecture
from florence.models.bert import KeyValues, mask_of
from florence.models.fusion import WordHead
from florence.models.generation import DecodingState, Writing
from florence.models.roberta import Roberta
from florence.models.stored import StoredModel
from florence.models.vision_language import (
    BuildOptions,
    VisionLanguage,
    VisionLanguageShape,
    stored_model,
)
from florence.text.coding import TextCoder

Past = list[KeyValues | None]


@dataclass(frozen=True)
class CaptionState:
    """What decoding remembers: keys and values of tokens so far, and of the images."""

    text: Past
    fusion: Past
    images: list[KeyValues]

    def chosen(self, rows: Tensor) -> CaptionState:
        """See :class:`florence.models.generation.DecodingState`."""

        def of(past: Past) -> Past:
            return [None if each is None else each.chosen(rows) for each in past]

        return replace(self, text=of(self.text), fusion=of(self.fusion))


class CaptionModel(VisionLanguage):
    """Images and texts to the word that follows each token; a decoder of captions."""

    def __init__(
        self, architecture: Architecture, shape: VisionLanguageShape, options: BuildOptions
    ) -> None:
        vocabulary = shape.roberta.vocabulary if shape.roberta else shape.coder.vocabulary
        head = WordHead(shape.fusion.width, vocabulary)
        super().__init__(architecture, shape, options, head, causal=True)

    @property
    def device(self) -> torch.device:
        """See :class:`florence.models.generation.Decoder`."""
        return next(self.parameters()).device

    def forward(self, images: Tensor, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Logits (M, V) of every token but the first of each text, in the order of the batch.

        Args:
            images: (B, 3, H, W).
            input_ids: (B, L) int64, start and end included.
            lengths: (B,) int64.
        """
        fused = self.fuse(self.image_tokens(images), input_ids, lengths)
        before_last = mask_of(lengths - 1, input_ids.shape[1])
        logits: Tensor = self.head(fused.text[before_last])
        return logits

    def start(self, images: Tensor) -> CaptionState:
        """The state before the first token of a text of each image (B, 3, H, W)."""
        if isinstance(self.text, Roberta):
            layers = self.text.sizes.layers
        else:
            layers = len(self.text.transformer.resblocks)
        tokens = self.image_tokens(images)
        past: Past = [None] * self.shape.fusion.layers
        return CaptionState([None] * layers, past, self.fusion.image_key_values(tokens))

    def step(
        self, tokens: Tensor, position: int, state: DecodingState
    ) -> tuple[Tensor, DecodingState]:
        """See :class:`florence.models.generation.Decoder`."""
        known = cast(CaptionState, state)
        x, text = self.text.step(tokens, position, known.text)
        x, fusion = self.fusion.step(x, known.fusion, known.images)
        return self.head(x[:, 0]), CaptionState(text, fusion, known.images)

    def writing(self, **how: float) -> Writing:
        """How texts are written: the coding's special tokens, and as :class:`Writing` says."""
        coder = self.shape.coder
        return Writing(
            start=coder.start,
            end=coder.end,
            padding=coder.padding,
            length=self.shape.text_length - 1,
            **how,  # type: ignore[arg-type]
        )

    def texts(self, tokens: Tensor) -> list[str]:
        """What written tokens (B, T) say."""
        return texts_of(self.shape.coder, tokens)


def texts_of(coder: TextCoder, tokens: Tensor) -> list[str]:
    """What tokens (n, T) say up to their end."""
    found = []
    for row in tokens.tolist():
        end = row.index(coder.end) if coder.end in row else len(row)
        found.append(coder.decode([t for t in row[:end] if not coder.is_special(t)]))
    return found


def caption_model_of(stored: StoredModel, device: torch.device) -> CaptionModel:
    """The model of a stored one, ready for evaluation. Raises :class:`DataError`."""
    card = stored.card
    shape = VisionLanguageShape.of(card, stored.uri)
    options = BuildOptions(window=card.window)
    return stored_model(lambda: CaptionModel(card.architecture, shape, options), stored, device)

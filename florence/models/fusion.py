"""Co-attention fusion of image and text tokens in the manner of METER (arXiv 2111.02387).

Shapes: B pairs, L text tokens, N image tokens, C channels, F channels of pooled features.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from florence.config import ActivationCheckpointing
from florence.models.bert import (
    INIT_STD,
    BertLayer,
    KeyValues,
    LayerSizes,
    causal_mask,
    initialise,
)
from florence.models.layers import recompute

BERT_WIDTH = 768
"""Channels for which BERT's deviation of 0.02 was chosen."""
TEXT, IMAGE = 0, 1
"""Rows of the modality embedding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionSizes:
    """Sizes of a fusion; the defaults are METER's: 113.42M parameters in the two stacks."""

    layers: int = 6
    width: int = 768
    heads: int = 12
    hidden: int = 3_072

    def to_card(self) -> dict[str, Any]:
        """The values as JSON."""
        return asdict(self)

    def layer(self, dropout: float) -> LayerSizes:
        """Those of one layer."""
        return LayerSizes(width=self.width, heads=self.heads, hidden=self.hidden, dropout=dropout)


@dataclass(frozen=True)
class Fused:
    """Tokens that have seen the other modality: text (B, L, C) and image (B, N, C)."""

    text: Tensor
    image: Tensor


class Pooler(nn.Module):
    """A linear layer and tanh."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) to the same."""
        return torch.tanh(self.dense(x))


class Fusion(nn.Module):
    """Two stacks, one for each modality, whose layers read each other's layer before.

    ``causal`` makes a decoder of it: a text token sees those before it and the image, and the
    image sees no text, so that its tokens are those of every step. It has no poolers, and one image
    layer less: layer n of the text reads layer n - 1 of the image.

    Args:
        sizes: of both stacks.
        text_width: channels of the text encoder's tokens.
        image_width: channels of the image tower's tokens.
        causal: whether texts are generated from left to right.
        dropout: probability in training.
        checkpointing: with anything but ``none`` the backward pass recomputes whole layers.
    """

    def __init__(
        self,
        sizes: FusionSizes,
        *,
        text_width: int,
        image_width: int,
        causal: bool = False,
        dropout: float = 0.1,
        checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.causal = causal
        self.checkpointing = checkpointing
        layer = sizes.layer(dropout)
        self.text_projection = nn.Linear(text_width, sizes.width)
        self.image_projection = nn.Linear(image_width, sizes.width)
        self.modality_embedding = nn.Embedding(2, sizes.width)
        self.text_layers = nn.ModuleList(
            BertLayer(layer, crossing=True) for _ in range(sizes.layers)
        )
        self.image_layers = nn.ModuleList(
            BertLayer(layer, crossing=not causal) for _ in range(sizes.layers - causal)
        )
        if not causal:
            self.text_pooler = Pooler(sizes.width)
            self.image_pooler = Pooler(sizes.width)

    def no_weight_decay(self) -> set[str]:
        """The modality embedding, as in the paper."""
        return {"modality_embedding.weight"}

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise as BERT does at its width; narrower, so that sums are as large as there.

        With 0.02 at a width of 32 what a layer adds vanishes beside its residual, and matching is
        not learnt in the time that it takes otherwise.
        """
        std = INIT_STD * math.sqrt(max(1.0, BERT_WIDTH / self.sizes.width))
        initialise(self, generator, std=std)

    def forward(self, text: Tensor, text_mask: Tensor, image: Tensor) -> Fused:
        """Fuse tokens.

        Args:
            text: (B, L, text_width).
            text_mask: boolean (B, L), False for padding.
            image: (B, N, image_width).
        """
        x, y = self._embedded_text(text), self._embedded_image(image)
        seen = text_mask[:, None, None, :]
        own = seen & causal_mask(text.shape[1], text.device) if self.causal else seen
        if self.causal:
            states = self.image_states(image)
            for layer, state in zip(self.text_layers, states, strict=True):
                x = self._run(layer, x, own, state)
            return Fused(x, states[-1])
        for text_layer, image_layer in zip(self.text_layers, self.image_layers, strict=True):
            x, y = (
                self._run(text_layer, x, own, y),
                self._run(image_layer, y, None, x, seen),
            )
        return Fused(x, y)

    def pooled(self, fused: Fused, place: Tensor) -> Tensor:
        """One text token, at ``place`` (B,) int64, and the mean image token, pooled: (B, 2 C)."""
        rows = torch.arange(len(place), device=place.device)
        text = self.text_pooler(fused.text[rows, place])
        return torch.cat([text, self.image_pooler(fused.image.mean(dim=1))], dim=1)

    def image_states(self, image: Tensor) -> list[Tensor]:
        """Of a causal fusion: what each text layer reads of the image, (B, N, C) each."""
        y = self._embedded_image(image)
        states = [y]
        for layer in self.image_layers:
            y = self._run(layer, y)
            states.append(y)
        return states

    def image_key_values(self, image: Tensor) -> list[KeyValues]:
        """Of a causal fusion: the image as the cross-attention of each text layer reads it."""
        return [
            cast(BertLayer, layer).crossattention.key_values(state)
            for layer, state in zip(self.text_layers, self.image_states(image), strict=True)
        ]

    def step(
        self, text: Tensor, past: list[KeyValues | None], image: list[KeyValues]
    ) -> tuple[Tensor, list[KeyValues | None]]:
        """One more text token, causally: (B, 1, text_width) to (B, 1, C).

        Args:
            text: of the text encoder.
            past: by layer, as the step before returned them; ``None`` each at the start.
            image: from :meth:`image_key_values`.
        """
        x = self._embedded_text(text)
        seen: list[KeyValues | None] = []
        for layer, before, other in zip(self.text_layers, past, image, strict=True):
            x, after = cast(BertLayer, layer).step(x, before, other)
            seen.append(after)
        return x, seen

    def looked_at(self, text: Tensor, text_mask: Tensor, image: Tensor) -> Tensor:
        """How much each text token attends to each image token, in the last layer: (B, L, N).

        The mean over heads; rows sum to 1. Arguments as for :meth:`forward`.
        """
        last = cast(BertLayer, self.text_layers[-1])
        seen: dict[str, Tensor] = {}

        def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen["weights"] = last.crossattention.weights(inputs[0], inputs[1])

        handle = last.crossattention.register_forward_pre_hook(keep)
        try:
            self.forward(text, text_mask, image)
        finally:
            handle.remove()
        return seen["weights"].mean(dim=1)

    def _embedded_text(self, text: Tensor) -> Tensor:
        return cast(Tensor, self.text_projection(text)) + self._modality(TEXT, text)

    def _embedded_image(self, image: Tensor) -> Tensor:
        return cast(Tensor, self.image_projection(image)) + self._modality(IMAGE, image)

    def _modality(self, row: int, tokens: Tensor) -> Tensor:
        # Through the module, not by its parameter: ZeRO-3 gathers what a module's call needs.
        index = torch.tensor(row, device=tokens.device)
        return cast(Tensor, self.modality_embedding(index))

    def _run(self, layer: nn.Module, *inputs: Tensor | None) -> Tensor:
        recomputed = self.checkpointing is not ActivationCheckpointing.NONE and self.training
        return recompute(layer, *inputs) if recomputed else cast(Tensor, layer(*inputs))


class MatchHead(nn.Module):
    """Whether image and text belong together: (B, F) to logits (B, 2), of no and yes."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.fc = nn.Linear(features, 2)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits."""
        return cast(Tensor, self.fc(pooled))


class WordHead(nn.Module):
    """Which word stands at a token: BERT's transform, and a decoder of its own.

    (…, C) to logits (…, V).
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-5)
        self.decoder = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.LayerNorm(nn.functional.gelu(self.dense(x)))
        return cast(Tensor, self.decoder(x))


class AnswerHead(nn.Module):
    """Scores of answers, METER's: linear, norm, GELU, linear; (B, F) to logits (B, A)."""

    def __init__(self, features: int, answers: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, features)
        self.norm = nn.LayerNorm(features)
        self.fc2 = nn.Linear(features, answers)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits."""
        return cast(Tensor, self.fc2(nn.functional.gelu(self.norm(self.fc1(pooled)))))

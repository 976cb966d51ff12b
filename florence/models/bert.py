"""The post-norm transformer layer of BERT (arXiv 1810.04805), of which RoBERTa and METER are made.

Shapes: B sequences of L tokens, S tokens of another sequence, C channels, h heads of d channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

INIT_STD = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSizes:
    """Sizes of a layer.

    Attributes:
        width: C.
        heads: h, a divisor of C.
        hidden: width of the feed-forward part.
        dropout: probability with which attention weights and what residual sums add are dropped.
        norm_eps: added to the variance in layer norms.
    """

    width: int
    heads: int
    hidden: int
    dropout: float = 0.0
    norm_eps: float = 1e-5


@dataclass
class KeyValues:
    """Keys and values of an attention, each (B, h, S, d)."""

    keys: Tensor
    values: Tensor

    def extended(self, more: KeyValues) -> KeyValues:
        """With those of the tokens that follow."""
        return KeyValues(
            torch.cat([self.keys, more.keys], dim=2), torch.cat([self.values, more.values], dim=2)
        )

    def chosen(self, rows: Tensor) -> KeyValues:
        """Those of some sequences, (b,) int64, in their order."""
        return KeyValues(self.keys[rows], self.values[rows])


class _Projections(nn.Module):
    """Queries, keys and values, under the names that BERT's files have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)


class _Output(nn.Module):
    """A linear layer, dropout, and the norm of its sum with the residual."""

    def __init__(self, inputs: int, sizes: LayerSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, sizes.width)
        self.LayerNorm = nn.LayerNorm(sizes.width, eps=sizes.norm_eps)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return cast(Tensor, self.LayerNorm(self.dropout(self.dense(x)) + residual))


class _Intermediate(nn.Module):
    """The first half of the feed-forward part; exact GELU."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(sizes.width, sizes.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class Attention(nn.Module):
    """Multi-head attention to the sequence itself or to another one, with a residual sum."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.dropout = sizes.dropout
        self.self = _Projections(sizes.width)
        self.output = _Output(sizes.width, sizes)

    def key_values(self, source: Tensor) -> KeyValues:
        """What queries attend to, of (B, S, C)."""
        return KeyValues(self._split(self.self.key(source)), self._split(self.self.value(source)))

    def forward(
        self, x: Tensor, source: KeyValues, mask: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """(B, L, C) to the same.

        Args:
            x: what asks.
            source: what is attended to.
            mask: boolean, broadcastable to (B, h, L, S); False where nothing may be seen.
            causal: token n sees those up to n; not together with a mask.
        """
        out = F.scaled_dot_product_attention(
            self._split(self.self.query(x)),
            source.keys,
            source.values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
        )
        return cast(Tensor, self.output(out.transpose(1, 2).flatten(2), x))

    def weights(self, x: Tensor, source: KeyValues) -> Tensor:
        """How much each token of ``x`` attends to each of the source: (B, h, L, S), rows sum to 1.

        For looking at; :meth:`forward` never stores them.
        """
        query = self._split(self.self.query(x))
        scores = query @ source.keys.transpose(2, 3) * float(query.shape[-1]) ** -0.5
        return cast(Tensor, scores.softmax(dim=-1))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class BertLayer(nn.Module):
    """Self-attention, optionally cross-attention, and a feed-forward part, each with its norm."""

    def __init__(self, sizes: LayerSizes, *, crossing: bool = False) -> None:
        super().__init__()
        self.attention = Attention(sizes)
        if crossing:
            self.crossattention = Attention(sizes)
        self.crossing = crossing
        self.intermediate = _Intermediate(sizes)
        self.output = _Output(sizes.hidden, sizes)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        other: Tensor | None = None,
        other_mask: Tensor | None = None,
    ) -> Tensor:
        """(B, L, C) to the same.

        Args:
            x: the sequence.
            mask: of self-attention, boolean, broadcastable to (B, h, L, L).
            other: (B, S, C), what cross-attention sees; not without cross-attention.
            other_mask: boolean, broadcastable to (B, h, L, S).
        """
        x = self.attention(x, self.attention.key_values(x), mask)
        if self.crossing:
            assert other is not None
            x = self.crossattention(x, self.crossattention.key_values(other), other_mask)
        return self.feed_forward(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The last part of the layer."""
        return cast(Tensor, self.output(self.intermediate(x), x))

    def step(
        self, x: Tensor, past: KeyValues | None, other: KeyValues | None = None
    ) -> tuple[Tensor, KeyValues]:
        """The layer for tokens that follow others, which alone they may see: causal decoding.

        Args:
            x: (B, 1, C), one token for every sequence.
            past: keys and values of the tokens before it; ``None`` at the start.
            other: those of the other sequence, for a layer with cross-attention; of fewer ones than
                there are sequences where consecutive sequences share theirs.

        Returns:
            The token, and ``past`` with its keys and values.
        """
        own = self.attention.key_values(x)
        seen = own if past is None else past.extended(own)
        x = self.attention(x, seen)
        if self.crossing:
            assert other is not None
            # Sequences that share what they attend to ask together, as tokens of one sequence.
            asking = x.view(len(other.keys), -1, x.shape[-1])
            x = self.crossattention(asking, other).view(x.shape)
        return self.feed_forward(x), seen


def initialise(
    module: nn.Module, generator: Generator | None = None, *, std: float = INIT_STD
) -> None:
    """Initialise everything below as BERT: normal of ``std``, zero biases, identity norms."""
    for each in module.modules():
        if isinstance(each, nn.Linear | nn.Embedding):
            nn.init.normal_(each.weight, std=std, generator=generator)
        if isinstance(each, nn.Linear) and each.bias is not None:
            nn.init.zeros_(each.bias)
        if isinstance(each, nn.LayerNorm):
            each.reset_parameters()


def causal_mask(length: int, device: torch.device) -> Tensor:
    """Boolean (L, L): whether the row's token may see the column's."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def mask_of(lengths: Tensor, length: int) -> Tensor:
    """Boolean (B, L): which tokens of sequences of these lengths, (B,) int64, are no padding."""
    return torch.arange(length, device=lengths.device) < lengths[:, None]

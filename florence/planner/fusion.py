"""Parameters, operations and bytes of RoBERTa and of the co-attention fusion, from sizes alone.

n tokens of a sequence, m of the one that it attends to, C channels, F hidden channels, h heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from florence.config import ActivationCheckpointing
from florence.planner.activations import FP32, Numerics, Unit


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Layers of one sort: see :class:`florence.models.bert.BertLayer`."""

    layers: int
    width: int
    heads: int
    hidden: int
    crossing: bool = False

    @property
    def parameters(self) -> int:
        """Of all layers."""
        c, f = self.width, self.hidden
        attention = 4 * (c * c + c) + 2 * c
        feed_forward = 2 * c * f + f + c + 2 * c
        return self.layers * (attention * (1 + self.crossing) + feed_forward)

    def macs(self, tokens: int, other: int = 0) -> int:
        """Multiply-accumulates of one sample's forward pass through all layers."""
        return self.layers * (self._attention_macs(tokens, tokens) + self._rest(tokens, other))

    def recomputed_macs(self, tokens: int, other: int = 0) -> int:
        """What a repetition of whole layers costs: all but each one's last product."""
        last = self.layers * tokens * self.width * self.hidden
        return self.macs(tokens, other) - last

    def unit(
        self,
        tokens: int,
        other: int,
        checkpointing: ActivationCheckpointing,
        numbers: Numerics,
        *,
        dropout: bool,
    ) -> Unit:
        """What one layer keeps for its backward pass; any checkpointing recomputes it whole."""
        n, c, f, p = tokens, self.width, self.hidden, numbers.product
        # A residual sum is the norm's input, in the residual stream's format, with two statistics.
        norm = n * (c * numbers.residual + 2 * FP32)
        dropped = n * c if dropout else 0
        # The input of the three projections, queries, keys, values, the output and its copy in the
        # layout of the last product, and the logarithms of the rows' sums.
        attention = n * (6 * c * p + self.heads * FP32) + norm + dropped
        saved = attention + n * (c + 2 * f) * p + norm + dropped
        if self.crossing:
            saved += n * (4 * c * p + self.heads * FP32) + 2 * other * c * p + norm + dropped
        gradients = n * (f * p + 2 * c * FP32)
        if checkpointing is ActivationCheckpointing.NONE:
            return Unit(kept=saved, working=gradients)
        kept = n * c * FP32
        return Unit(kept=kept, working=saved + gradients - kept)

    def _attention_macs(self, tokens: int, other: int) -> int:
        c = self.width
        return 2 * tokens * c * c + 2 * other * c * c + 2 * tokens * other * c

    def _rest(self, tokens: int, other: int) -> int:
        crossing = self._attention_macs(tokens, other) if self.crossing else 0
        return crossing + 2 * tokens * self.width * self.hidden


@dataclass(frozen=True, kw_only=True, slots=True)
class RobertaSize:
    """A RoBERTa whose files are not read yet: ``roberta-base``."""

    vocabulary: int = 50_265
    positions: int = 514
    stack: Stack = Stack(layers=12, width=768, heads=12, hidden=3_072)

    @property
    def embeddings(self) -> int:
        """Parameters of the tables."""
        return (self.vocabulary + self.positions + 1) * self.stack.width

    @property
    def parameters(self) -> int:
        """Of the encoder without pooler and heads."""
        return self.embeddings + 2 * self.stack.width + self.stack.parameters

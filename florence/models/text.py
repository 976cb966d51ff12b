"""The text tower: a causal transformer in the manner of CLIP (arXiv 2103.00020, section 2.4).

Shapes: B texts of L tokens, W channels, D channels of the shared embedding.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from florence.config.model import TextTower
from florence.config.pretrain import ActivationCheckpointing
from florence.models.layers import Mlp, recompute


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a token sees itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) to the same."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return cast(Tensor, self.proj(out.transpose(1, 2).reshape(batch, length, width)))


class TextBlock(nn.Module):
    """Pre-norm causal attention and MLP, each with a residual sum."""

    def __init__(self, config: TextTower) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = CausalAttention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.hidden, config.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) to the same."""
        x = x + self.attention(self.norm1(x))
        return x + cast(Tensor, self.mlp(self.norm2(x)))


class TextTransformer(nn.Module):
    """The text tower: embeddings, causal blocks, a final norm at the end token, a projection.

    Args:
        config: sizes of the tower.
        embed_dim: D, length of the shared embedding.
        checkpointing: with anything but ``none`` the backward pass recomputes whole blocks.
    """

    def __init__(
        self,
        config: TextTower,
        embed_dim: int,
        *,
        checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE,
    ) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = checkpointing
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context, config.width))
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, embed_dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise as CLIP: normal, deviations falling with width and depth; zero biases."""
        width, layers = self.config.width, self.config.layers

        def normal(tensor: Tensor, std: float) -> None:
            nn.init.normal_(tensor, std=std, generator=generator)

        normal(self.token_embedding.weight, 0.02)
        normal(self.positional_embedding, 0.01)
        for block in cast("list[TextBlock]", self.blocks):
            block.norm1.reset_parameters()
            block.norm2.reset_parameters()
            normal(block.attention.qkv.weight, width**-0.5)
            normal(block.attention.proj.weight, (2 * layers * width) ** -0.5)
            normal(block.mlp.fc1.weight, (2 * width) ** -0.5)
            normal(block.mlp.fc2.weight, (2 * layers * width) ** -0.5)
            for linear in (
                block.attention.qkv,
                block.attention.proj,
                block.mlp.fc1,
                block.mlp.fc2,
            ):
                nn.init.zeros_(linear.bias)
        self.norm.reset_parameters()
        normal(self.projection.weight, width**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed texts: (B, L) int64 with L <= context to (B, D), not normalised.

        The end token has the highest id of the vocabulary; its first occurrence is the pooled
        position. Attention is causal, so columns after every text's end token may be cut off.
        """
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        recomputed = self.checkpointing is not ActivationCheckpointing.NONE and self.training
        for block in self.blocks:
            x = recompute(block, x) if recomputed else block(x)
        ends = ids.argmax(dim=1)
        x = x[torch.arange(len(ids), device=ids.device), ends]
        return cast(Tensor, self.projection(self.norm(x)))

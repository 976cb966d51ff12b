"""The text tower: a causal transformer in the manner of CLIP (arXiv 2103.00020, section 2.4).

Shapes: B texts of L tokens, W channels, D channels of the shared embedding.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from florence.config import Activation, ActivationCheckpointing, TextTower
from florence.models.bert import KeyValues
from florence.models.layers import activate, recompute


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a token sees itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) to the same."""
        batch, length, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        qkv = qkv.view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return cast(Tensor, self.out_proj(out.transpose(1, 2).reshape(batch, length, width)))

    def step(self, x: Tensor, past: KeyValues | None) -> tuple[Tensor, KeyValues]:
        """One token after those of ``past``: (B, 1, W) to the same, and all keys and values."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        qkv = qkv.view(len(x), 1, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        seen = KeyValues(k, v) if past is None else past.extended(KeyValues(k, v))
        out = F.scaled_dot_product_attention(q, seen.keys, seen.values)
        return cast(Tensor, self.out_proj(out.transpose(1, 2).flatten(2))), seen


class TextMlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) to the same."""
        return cast(Tensor, self.c_proj(activate(self.c_fc(x), self.activation)))


class TextBlock(nn.Module):
    """Pre-norm causal attention and MLP, each with a residual sum."""

    def __init__(self, config: TextTower) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = CausalAttention(config.width, config.heads)
        self.ln_2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = TextMlp(config.width, config.hidden, config.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) to the same."""
        x = x + self.attn(self.ln_1(x))
        return x + cast(Tensor, self.mlp(self.ln_2(x)))

    def step(self, x: Tensor, past: KeyValues | None) -> tuple[Tensor, KeyValues]:
        """See :meth:`CausalAttention.step`."""
        attended, seen = self.attn.step(self.ln_1(x), past)
        x = x + attended
        return x + cast(Tensor, self.mlp(self.ln_2(x))), seen


class TextBlocks(nn.Module):
    """The blocks, under the name that open_clip gives them: ``transformer.resblocks``."""

    def __init__(self, config: TextTower) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(TextBlock(config) for _ in range(config.layers))

    def forward(self, x: Tensor, *, recomputed: bool) -> Tensor:
        """(B, L, W) to the same; ``recomputed``: whether the backward pass calls blocks again."""
        for block in self.resblocks:
            x = recompute(block, x) if recomputed else block(x)
        return x


class TextTransformer(nn.Module):
    """The text tower: embeddings, causal blocks, a final norm at the end token, a projection.

    Parameters have open_clip's names, and ``text_projection`` is a (W, D) matrix as there.

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
        self.transformer = TextBlocks(config)
        self.ln_final = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.text_projection = nn.Parameter(torch.empty(config.width, embed_dim))
        self.reset_parameters()

    def no_weight_decay(self) -> set[str]:
        """Parameters of this module that are no matrices, whatever their shape."""
        return {"positional_embedding"}

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise as CLIP: normal, deviations falling with width and depth; zero biases."""
        width, layers = self.config.width, self.config.layers

        def normal(tensor: Tensor, std: float) -> None:
            nn.init.normal_(tensor, std=std, generator=generator)

        normal(self.token_embedding.weight, 0.02)
        normal(self.positional_embedding, 0.01)
        for block in cast("list[TextBlock]", self.transformer.resblocks):
            block.ln_1.reset_parameters()
            block.ln_2.reset_parameters()
            normal(block.attn.in_proj_weight, width**-0.5)
            normal(block.attn.out_proj.weight, (2 * layers * width) ** -0.5)
            normal(block.mlp.c_fc.weight, (2 * width) ** -0.5)
            normal(block.mlp.c_proj.weight, (2 * layers * width) ** -0.5)
            nn.init.zeros_(block.attn.in_proj_bias)
            for linear in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                nn.init.zeros_(linear.bias)
        self.ln_final.reset_parameters()
        # Drawn as the (D, W) matrix of a linear layer: a seed gives the weights it always gave.
        projection = torch.empty_like(
            self.text_projection.t(), memory_format=torch.contiguous_format
        )
        normal(projection, width**-0.5)
        with torch.no_grad():
            self.text_projection.copy_(projection.t())

    def forward(self, input_ids: Tensor, *, pooled: bool = True) -> Tensor:
        """Embed texts: (B, L) int64 with L <= context to (B, D), not normalised.

        Not ``pooled``: all tokens after the final norm, (B, L, W).

        The end token has the highest id of the vocabulary; its first occurrence is the pooled
        position. Attention is causal, so columns after every text's end token may be cut off.
        """
        x = self.token_embedding(input_ids) + self.positional_embedding[: input_ids.shape[1]]
        recomputed = self.checkpointing is not ActivationCheckpointing.NONE and self.training
        x = self.transformer(x, recomputed=recomputed)
        if not pooled:
            return cast(Tensor, self.ln_final(x))
        ends = input_ids.argmax(dim=1)
        x = x[torch.arange(x.shape[0], device=x.device), ends]
        return cast(Tensor, self.ln_final(x)) @ self.text_projection

    def step(
        self, input_ids: Tensor, position: int, past: list[KeyValues | None]
    ) -> tuple[Tensor, list[KeyValues | None]]:
        """One more token of every text, as unpooled :meth:`forward` has it: (B,) to (B, 1, W).

        Args:
            input_ids: the tokens at ``position``, which counts from 0.
            past: keys and values by block, as the step before returned them; ``None`` each at 0.
        """
        x = self.token_embedding(input_ids[:, None]) + self.positional_embedding[position]
        seen: list[KeyValues | None] = []
        for block, before in zip(self.transformer.resblocks, past, strict=True):
            x, after = cast(TextBlock, block).step(x, before)
            seen.append(after)
        return cast(Tensor, self.ln_final(x)), seen

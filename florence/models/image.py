"""CoSwin, the image tower: a Swin transformer with convolutional embeddings.

Sources: Florence (arXiv 2111.11432) section 2.2; Swin (arXiv 2103.14030); CvT (arXiv 2103.15808).
Shapes: B images, H x W tokens of C channels, L = H * W.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from florence.config import ActivationCheckpointing, ImageTower
from florence.models.attention import WindowAttention
from florence.models.layers import Mlp, recompute
from florence.models.patch_embed import ConvEmbed, PatchMerging, downsampling
from florence.models.windows import WindowGrid, permute, reorder, window_order


class SwinBlock(nn.Module):
    """Pre-norm window attention and MLP, each with a residual sum."""

    def __init__(
        self,
        config: ImageTower,
        channels: int,
        heads: int,
        window: int,
        *,
        drop: float,
        checkpointing: ActivationCheckpointing,
        attention: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.drop = drop
        self.checkpointing = checkpointing
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention or WindowAttention(channels, heads, window, config.attention)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, config.mlp_ratio * channels)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise every parameter of the block."""
        self.norm1.reset_parameters()
        cast(WindowAttention, self.attn).reset_parameters(generator)
        self.norm2.reset_parameters()
        self.mlp.reset_parameters(generator)

    def drop_mask(self, x: Tensor) -> Tensor | None:
        """What this step's residuals of ``x`` (B, L, C) are scaled by: (2, B, 1, 1), or None.

        Drawn outside :meth:`forward`, so that a block's compiled code and its recomputation do
        not depend on its probability or on the random state: blocks of one shape share their code.
        """
        if not self.training or self.drop == 0:
            return None
        keep = 1 - self.drop
        return x.new_empty(2, len(x), 1, 1).bernoulli_(keep).div_(keep)

    def forward(self, x: Tensor, grid: WindowGrid, mask: Tensor | None = None) -> Tensor:
        """(B, L, C) to the same; in window order, or in image order where the grid is padded."""
        if self.checkpointing is ActivationCheckpointing.FULL and self.training:
            return recompute(self._transform, x, grid, mask)
        return self._transform(x, grid, mask)

    def _transform(self, x: Tensor, grid: WindowGrid, mask: Tensor | None) -> Tensor:
        if self.checkpointing is ActivationCheckpointing.SELECTIVE and self.training:
            attended = recompute(self._attend, x, grid)
        else:
            attended = self._attend(x, grid)
        x = x + (attended if mask is None else attended * mask[0])
        added: Tensor = self.mlp(self.norm2(x))
        return x + (added if mask is None else added * mask[1])

    def _attend(self, x: Tensor, grid: WindowGrid) -> Tensor:
        x = self.norm1(x)
        if not grid.is_padded:
            return cast(Tensor, self.attn(x, grid))
        # Padding follows the norm, so that padded tokens are zeros whatever the norm's bias is.
        batch, length, channels = x.shape
        bottom, right = grid.padded_height - grid.height, grid.padded_width - grid.width
        x = F.pad(x.view(batch, grid.height, grid.width, channels), (0, 0, 0, right, 0, bottom))
        order = window_order(grid, x.device)
        x = self.attn(permute(x.flatten(1, 2), order), grid)
        x = permute(x, order.inverted())
        x = x.view(batch, grid.padded_height, grid.padded_width, channels)
        return x[:, : grid.height, : grid.width].reshape(batch, length, channels)


class SwinStage(nn.Module):
    """What halves resolution, then blocks; every second block shifts its windows.

    The first stage halves nothing: the tower's ``patch_embed`` stands in front of it.
    """

    def __init__(
        self,
        config: ImageTower,
        stage: int,
        window: int,
        drops: list[float],
        checkpointing: ActivationCheckpointing,
    ) -> None:
        super().__init__()
        channels = config.width << stage
        self.window = window
        self.downsample = (
            downsampling(config.embedding, stage, channels // 2, channels)
            if stage
            else nn.Identity()
        )
        self.blocks = nn.ModuleList(
            SwinBlock(
                config,
                channels,
                config.heads[stage],
                window,
                drop=drop,
                checkpointing=checkpointing,
            )
            for drop in drops
        )

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise every parameter of the stage."""
        if not isinstance(self.downsample, nn.Identity):
            cast(ConvEmbed | PatchMerging, self.downsample).reset_parameters(generator)
        for block in self.blocks:
            cast(SwinBlock, block).reset_parameters(generator)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) of what stands before to (B, H', W', C'), both in image order."""
        x = self.downsample(x)
        batch, height, width, channels = x.shape
        plain = WindowGrid.fit(height, width, self.window, shifted=False)
        shifted = WindowGrid.fit(height, width, self.window, shifted=True)
        x = x.reshape(batch, height * width, channels)
        blocks = cast("list[SwinBlock]", self.blocks)
        if plain.is_padded:
            for number, block in enumerate(blocks):
                x = block(x, shifted if number % 2 else plain, block.drop_mask(x))
            return x.view(batch, height, width, channels)
        x = permute(x, window_order(plain, x.device))
        order = plain
        for number, block in enumerate(blocks):
            grid = shifted if number % 2 else plain
            if grid != order:
                x, order = permute(x, reorder(order, grid, x.device)), grid
            x = block(x, grid, block.drop_mask(x))
        x = permute(x, window_order(order, x.device).inverted())
        return x.view(batch, height, width, channels)


class CoSwin(nn.Module):
    """The image tower: four stages, a final norm, the mean over tokens, a projection.

    Parameters have timm's names for Swin; a convolutional embedding's are ``proj`` and ``norm``
    where Swin's merging has ``norm`` and ``reduction``, and ``projection`` is ours.

    Args:
        config: sizes of the tower.
        embed_dim: D, length of the shared embedding.
        window: side of the attention windows; ``config.window`` where None.
        checkpointing: which activations the backward pass recomputes: nothing, the attention half
            of each block, or whole blocks. Changes memory and time, never the result.
        drop_path: highest probability of dropping a block; ``config.drop_path`` where None.
    """

    def __init__(
        self,
        config: ImageTower,
        embed_dim: int,
        *,
        window: int | None = None,
        checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE,
        drop_path: float | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.window = window or config.window
        drops = linear_in_depth(config.drop_path if drop_path is None else drop_path, config.depths)
        self.patch_embed = downsampling(config.embedding, 0, 3, config.width)
        self.layers = nn.ModuleList(
            SwinStage(config, number, self.window, drops[number], checkpointing)
            for number in range(4)
        )
        self.norm = nn.LayerNorm(8 * config.width)
        self.projection = nn.Linear(8 * config.width, embed_dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise: truncated normal of 0.02, zero biases, identity norms."""
        cast(ConvEmbed, self.patch_embed).reset_parameters(generator)
        for stage in self.layers:
            cast(SwinStage, stage).reset_parameters(generator)
        self.norm.reset_parameters()
        nn.init.trunc_normal_(self.projection.weight, std=0.02, generator=generator)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """The four stages' outputs (B, C_i, H_i, W_i): C_i = width * 2^i, H_i ~ H / 2^(i+2)."""
        maps = []
        x = self.patch_embed(images.permute(0, 2, 3, 1))
        for stage in self.layers:
            x = stage(x)
            maps.append(x.permute(0, 3, 1, 2))
        return maps

    def features(self, images: Tensor) -> Tensor:
        """The mean over tokens of the normalised last map: (B, 3, H, W) to (B, 8 * width)."""
        last = self.feature_maps(images)[-1]
        return cast(Tensor, self.norm(last.flatten(2).transpose(1, 2))).mean(dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images of any size: (B, 3, H, W) floating point to (B, D), not normalised."""
        return cast(Tensor, self.projection(self.features(images)))


def linear_in_depth(highest: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Drop probabilities per stage and block, from 0 at the first block to ``highest``."""
    total = sum(depths)
    rising = iter([highest * block / max(1, total - 1) for block in range(total)])
    return [[next(rising) for _ in range(depth)] for depth in depths]

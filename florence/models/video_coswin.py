"""Video CoSwin, the tower of clips: CoSwin with tubes for patches and windows over time.

Sources: Florence (arXiv 2111.11432) section 2.6; Video Swin (arXiv 2106.13230).
Shapes: B clips, T x H x W tokens of C channels, L = T * H * W.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from florence.config import ActivationCheckpointing, ImageTower
from florence.config.video import VideoShape
from florence.models.image import SwinBlock, linear_in_depth
from florence.models.video_attention import VideoWindowAttention
from florence.models.video_embed import FrameMerging, TubeEmbed, video_downsampling
from florence.models.video_windows import VideoGrid, video_order, video_reorder
from florence.models.windows import WindowGrid, permute


class VideoBlock(SwinBlock):
    """A Swin block whose windows reach over time."""

    def _attend(self, x: Tensor, grid: WindowGrid) -> Tensor:
        grid = cast(VideoGrid, grid)
        x = self.norm1(x)
        if not grid.is_padded:
            return cast(Tensor, self.attn(x, grid))
        # Padding follows the norm, as in an image block.
        batch, length, channels = x.shape
        after = (
            grid.padded_width - grid.width,
            grid.padded_height - grid.height,
            grid.padded_frames - grid.frames,
        )
        x = x.view(batch, grid.frames, grid.height, grid.width, channels)
        x = F.pad(x, (0, 0, 0, after[0], 0, after[1], 0, after[2]))
        padded = x.shape
        order = video_order(grid, x.device)
        x = self.attn(permute(x.flatten(1, 3), order), grid)
        x = permute(x, order.inverted()).view(padded)
        x = x[:, : grid.frames, : grid.height, : grid.width]
        return x.reshape(batch, length, channels)


class VideoStage(nn.Module):
    """What halves resolution, then blocks; every second block shifts its windows.

    The first stage halves nothing: the tower's ``patch_embed`` stands in front of it.
    """

    def __init__(
        self,
        config: ImageTower,
        shape: VideoShape,
        stage: int,
        drops: list[float],
        checkpointing: ActivationCheckpointing,
    ) -> None:
        super().__init__()
        channels, heads = config.width << stage, config.heads[stage]
        self.window_frames, self.window = shape.window_frames[stage], shape.windows[stage]
        self.downsample = (
            video_downsampling(
                config.embedding,
                stage,
                channels // 2,
                channels,
                tubelet=shape.tubelet,
                kernel_time=shape.merge_kernel_time,
            )
            if stage
            else nn.Identity()
        )
        self.blocks = nn.ModuleList(
            VideoBlock(
                config,
                channels,
                heads,
                self.window,
                drop=drop,
                checkpointing=checkpointing,
                attention=VideoWindowAttention(
                    channels, heads, self.window_frames, self.window, config.attention
                ),
            )
            for drop in drops
        )

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise every parameter of the stage."""
        if not isinstance(self.downsample, nn.Identity):
            cast(TubeEmbed | FrameMerging, self.downsample).reset_parameters(generator)
        for block in self.blocks:
            cast(VideoBlock, block).reset_parameters(generator)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) of what stands before to (B, T, H', W', C'), frame by frame."""
        x = self.downsample(x)
        batch, frames, height, width, channels = whole = x.shape
        plain, shifted = (
            VideoGrid.over(
                frames,
                height,
                width,
                window_frames=self.window_frames,
                window=self.window,
                shifted=each,
            )
            for each in (False, True)
        )
        x = x.reshape(batch, frames * height * width, channels)
        blocks = cast("list[VideoBlock]", self.blocks)
        if plain.is_padded:
            for number, block in enumerate(blocks):
                x = block(x, shifted if number % 2 else plain, block.drop_mask(x))
            return x.view(whole)
        x = permute(x, video_order(plain, x.device))
        order = plain
        for number, block in enumerate(blocks):
            grid = shifted if number % 2 else plain
            if grid != order:
                x, order = permute(x, video_reorder(order, grid, x.device)), grid
            x = block(x, grid, block.drop_mask(x))
        return permute(x, video_order(order, x.device).inverted()).view(whole)


class VideoCoSwin(nn.Module):
    """The tower of clips: four stages, a final norm, the mean over tokens, a projection.

    Parameters are named as :class:`florence.models.image.CoSwin`'s.

    Args:
        config: sizes, as the image tower has them.
        shape: what it has beside them.
        embed_dim: D, length of the shared embedding.
        checkpointing: which activations the backward pass recomputes. Changes memory and time,
            never the result.
        drop_path: highest probability of dropping a block; ``config.drop_path`` where None.
    """

    def __init__(
        self,
        config: ImageTower,
        shape: VideoShape,
        embed_dim: int,
        *,
        checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE,
        drop_path: float | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        drops = linear_in_depth(config.drop_path if drop_path is None else drop_path, config.depths)
        self.patch_embed = video_downsampling(
            config.embedding,
            0,
            3,
            config.width,
            tubelet=shape.tubelet,
            kernel_time=shape.merge_kernel_time,
        )
        self.layers = nn.ModuleList(
            VideoStage(config, shape, number, drops[number], checkpointing) for number in range(4)
        )
        self.norm = nn.LayerNorm(8 * config.width)
        self.projection = nn.Linear(8 * config.width, embed_dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise: truncated normal of 0.02, zero biases, identity norms."""
        cast(TubeEmbed, self.patch_embed).reset_parameters(generator)
        for stage in self.layers:
            cast(VideoStage, stage).reset_parameters(generator)
        self.norm.reset_parameters()
        nn.init.trunc_normal_(self.projection.weight, std=0.02, generator=generator)

    def tokens(self, clips: Tensor) -> Tensor:
        """The normalised last map: (B, 3, T, H, W) to (B, T', H', W', 8 * width)."""
        x = self.patch_embed(clips.permute(0, 2, 3, 4, 1))
        for stage in self.layers:
            x = stage(x)
        return cast(Tensor, self.norm(x))

    def features(self, clips: Tensor) -> Tensor:
        """The mean over tokens: (B, 3, T, H, W) to (B, 8 * width)."""
        return self.tokens(clips).flatten(1, 3).mean(dim=1)

    def forward(self, clips: Tensor) -> Tensor:
        """Embed clips of any length and size: (B, 3, T, H, W) floating point to (B, D)."""
        return cast(Tensor, self.projection(self.features(clips)))

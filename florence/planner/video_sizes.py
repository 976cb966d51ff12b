"""Parameters and floating-point operations of a video tower, exact, from its sizes alone."""

from __future__ import annotations

from dataclasses import dataclass

from florence.config import Architecture, Embedding
from florence.config.video import VideoShape
from florence.planner.sizes import (
    ImageStage,
    attention_macs,
    image_stages,
    mlp_macs,
    parameters,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoStage(ImageStage):
    """One of the video tower's four stages, at a length and a resolution.

    ``frames`` is the length of its map in tokens, ``window_frames`` that of its windows,
    ``padded_frames`` the map's after padding, ``kernel_time`` its embedding's.
    """

    frames: int
    window_frames: int
    padded_frames: int
    kernel_time: int

    @property
    def tokens(self) -> int:
        return int(self.frames * self.side**2)

    @property
    def padded_tokens(self) -> int:
        return int(self.padded_frames * self.padded**2)

    @property
    def area(self) -> int:
        return int(self.window_frames * self.window**2)

    @property
    def is_tiled(self) -> bool:
        return self.padded == self.side and self.padded_frames == self.frames

    @property
    def has_shifts(self) -> bool:
        return self.side > self.window or self.frames > self.window_frames

    @property
    def input_copies(self) -> float:
        """Merging reads a copy of the map whose first and last frames are repeated."""
        repeated = self.kernel_time - 1 if self.index else 0
        return (self.frames + repeated) / self.frames


def video_stages(
    architecture: Architecture, shape: VideoShape, *, frames: int, resolution: int
) -> tuple[VideoStage, ...]:
    """The four stages for clips of so many frames and square images of ``resolution`` pixels."""
    image = architecture.image
    length = -(-frames // shape.tubelet)
    stages = []
    for index, plain in enumerate(image_stages(image, resolution)):
        window = min(shape.windows[index], plain.side)
        window_frames = min(shape.window_frames[index], length)
        stages.append(
            VideoStage(
                index=index,
                in_channels=plain.in_channels,
                channels=plain.channels,
                depth=plain.depth,
                heads=plain.heads,
                side=plain.side,
                window=window,
                padded=-(-plain.side // window) * window,
                kernel=plain.kernel,
                frames=length,
                window_frames=window_frames,
                padded_frames=-(-length // window_frames) * window_frames,
                kernel_time=shape.merge_kernel_time if index else shape.tubelet,
            )
        )
    return tuple(stages)


def video_parameters(architecture: Architecture, shape: VideoShape) -> int:
    """Of the video tower with its projection: the image tower's, kernels and tables longer."""
    image = architecture.image
    total = parameters(architecture, window=1).image
    for stage in video_stages(architecture, shape, frames=shape.tubelet, resolution=224):
        index = stage.index
        entries = (2 * shape.window_frames[index] - 1) * (2 * shape.windows[index] - 1) ** 2
        total += stage.depth * stage.heads * (entries - 1)
        if image.embedding is Embedding.CONV or index == 0:
            kernel = stage.kernel**2 * stage.in_channels * stage.channels
            total += (stage.kernel_time - 1) * kernel
    return total


def video_macs(
    architecture: Architecture, shape: VideoShape, *, frames: int, resolution: int
) -> int:
    """Multiply-accumulates of one clip's forward pass through the tower and its projection."""
    total = 8 * architecture.image.width * architecture.embed_dim
    for stage in video_stages(architecture, shape, frames=frames, resolution=resolution):
        kernel = stage.kernel_time * stage.kernel**2
        total += stage.tokens * kernel * stage.in_channels * stage.channels
        block = attention_macs(stage) + mlp_macs(stage, architecture.image.mlp_ratio)
        total += stage.depth * block
    return total

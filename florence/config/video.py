"""What turns an image tower into a video tower: tubes, merging in time, windows of each stage."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import field_validator, model_validator

from florence.config.base import Settings, setting
from florence.config.model import Embedding, ImageTower

Sides = tuple[int, int, int, int]


class VideoPreset(StrEnum):
    """Sets of windows and kernels, by what they are known for."""

    INHERIT = "inherit"
    PAPER = "paper"
    PARAMS647 = "params647"


class VideoShape(Settings):
    """What a video tower has beside an image tower's sizes, every choice made; in model cards."""

    tubelet: int = setting(
        description="frames that become one token; the stem's kernel and stride in time",
        unit="frames",
        ge=1,
    )
    merge_kernel_time: Literal[1, 3] = setting(
        description="kernel in time of the convolutions that merge patches", unit="tokens"
    )
    window_frames: Sides = setting(
        description="length in time of the attention windows of each stage", unit="tokens"
    )
    windows: Sides = setting(
        description="side of the attention windows of each stage", unit="tokens"
    )

    @field_validator("window_frames", "windows")
    @classmethod
    def _are_sizes(cls, sizes: Sides) -> Sides:
        if min(sizes) < 1:
            raise ValueError("must be at least 1 each")
        return sizes


_PRESET_WINDOWS: Sides = (7, 7, 12, 12)
"""Small early, large late, as the paper says without figures; with CoSwin-H and kernels of 1 in
time these windows give the paper's count of parameters."""


class VideoTower(Settings):
    """How a video tower is made of an image tower; what is left out follows the preset."""

    preset: VideoPreset = setting(
        VideoPreset.INHERIT,
        description="inherit: the image model's windows; paper: windows 7, 7, 12, 12 and merging "
        "over 3 tokens in time, as the paper's text has it; params647: the same windows and no "
        "merging in time, which with coswin-h makes the paper's 647 million parameters",
    )
    tubelet: int = setting(
        2,
        description="frames that become one token; the stem's kernel and stride in time",
        unit="frames",
        ge=1,
    )
    merge_kernel_time: Literal[1, 3] | None = setting(
        None,
        description="kernel in time of the convolutions that merge patches, 1 or 3. Default: the "
        "preset's, and 3 with inherit",
        unit="tokens",
    )
    window_frames: Sides = setting(
        (8, 8, 8, 8),
        description="length in time of the attention windows of each stage",
        unit="tokens",
    )
    windows: Sides | None = setting(
        None,
        description="side of the attention windows of each stage. Default: the preset's",
        unit="tokens",
    )

    @model_validator(mode="after")
    def _has_sizes(self) -> Self:
        if min(*self.window_frames, *(self.windows or (1,))) < 1:
            raise ValueError("windowFrames and windows must be at least 1 each")
        return self

    def shape(self, image: ImageTower, window: int) -> VideoShape:
        """Every choice made, for an image tower with windows of side ``window``.

        Swin's merging joins 2 x 2 patches of one frame: it has no kernel in time.
        """
        inherits = self.preset is VideoPreset.INHERIT
        kernel = self.merge_kernel_time
        if kernel is None:
            kernel = 1 if self.preset is VideoPreset.PARAMS647 else 3
        return VideoShape(
            tubelet=self.tubelet,
            merge_kernel_time=1 if image.embedding is Embedding.SWIN else kernel,
            window_frames=self.window_frames,
            windows=self.windows or ((window,) * 4 if inherits else _PRESET_WINDOWS),
        )


class ShortClip(StrEnum):
    """What fills a span when the video is shorter."""

    LOOP = "loop"
    CLAMP = "clamp"


class ClipSampling(Settings):
    """Which frames of a video are looked at."""

    frames: int = setting(32, description="frames of a clip", unit="frames", ge=1)
    stride: int = setting(2, description="one of so many frames is taken", unit="frames", ge=1)
    frame_rate: float | None = setting(
        None,
        description="look at videos as if they had this frame rate. Default: their own frames",
        unit="frames/s",
        gt=0,
    )
    short: ShortClip = setting(
        ShortClip.LOOP,
        description="when a video is shorter than frames x stride: loop it, or clamp: its last "
        "frame stands",
    )


class Views(Settings):
    """How often a video is looked at in evaluation; the softmax of all views is averaged."""

    spans: int = setting(4, description="clips, evenly spaced in time", unit="clips", ge=1)
    crops: Literal[1, 3] = setting(
        3, description="squares of each clip along its longer side, 1 or 3", unit="crops"
    )

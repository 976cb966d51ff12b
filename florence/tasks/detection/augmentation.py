"""What a user may set about the images that a detector is trained on. No torch, no numpy."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from florence.config.base import Settings, setting


class LargeScaleJitter(Settings):
    """Images scaled by a lot and cropped to a square (Ghiasi et al., arXiv 2012.07177, 3)."""

    side: int = setting(1024, description="side of the square", unit="pixels", ge=16)
    scale_min: float = setting(
        0.1, description="smallest size of the whole image, as a part of the square", gt=0
    )
    scale_max: float = setting(2.0, description="largest size of the whole image", gt=0)


class DetectionAugmentation(Settings):
    """How training images are drawn. Boxes follow."""

    flip: float = setting(
        0.5, description="probability that an image is mirrored left to right", ge=0, le=1
    )
    short_side_min: int = setting(
        480, description="smallest short side of a training image", unit="pixels", ge=16
    )
    short_side_max: int = setting(
        1200, description="largest short side of a training image", unit="pixels", ge=16
    )
    max_side: int = setting(
        2500,
        description="largest long side, which wins over the short one; the paper uses 2,500 for "
        "COCO, 1,333 for Objects365 and 3,000 for Visual Genome",
        unit="pixels",
        ge=16,
    )
    large_scale_jitter: LargeScaleJitter | None = setting(
        None, description="scale and crop to a square instead of drawing a short side"
    )
    mosaic: float = setting(
        0.0,
        description="probability that four images become one, a quarter from each",
        ge=0,
        le=1,
    )
    mixup: float = setting(
        0.0, description="probability that an image is blended with another one", ge=0, le=1
    )
    copy_paste: float = setting(
        0.0,
        description="probability that objects of another image are pasted in, by their boxes",
        ge=0,
        le=1,
    )
    min_visible: float = setting(
        0.1,
        description="part of a box that must be left of it after cropping and pasting over it; "
        "with less it is dropped",
        ge=0,
        le=1,
    )

    @model_validator(mode="after")
    def _sides_rise(self) -> Self:
        if self.short_side_min > self.short_side_max:
            raise ValueError("shortSideMin must not be above shortSideMax")
        jitter = self.large_scale_jitter
        if jitter is not None and jitter.scale_min > jitter.scale_max:
            raise ValueError("largeScaleJitter.scaleMin must not be above scaleMax")
        return self

    @property
    def most_pixels(self) -> int:
        """Of one training image."""
        if self.large_scale_jitter is not None:
            return self.large_scale_jitter.side**2
        # Blended images are as wide as the one and as high as the other.
        short = self.max_side if self.mixup else min(self.short_side_max, self.max_side)
        return short * self.max_side

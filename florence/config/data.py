"""How samples are read, cropped and captioned."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import model_validator

from florence.config.base import Holds, Settings, location, setting


class TextIdentity(StrEnum):
    """When two texts are the same description and so share a label."""

    CANONICAL = "canonical"
    EXACT = "exact"


class CaptionLabel(StrEnum):
    """Whether equal captions are positives of each other (Florence) or no pairs are (CLIP)."""

    HASH = "hash"
    UNIQUE = "unique"


class Loader(Settings):
    """How samples reach the model. None of these settings changes which samples a step sees."""

    workers: int = setting(
        2,
        description="processes that decode images, per rank; 0 decodes in the training process",
        affects_result=False,
        ge=0,
    )
    prefetch: int = setting(
        4,
        description="batches each worker prepares ahead",
        unit="batches",
        affects_result=False,
        ge=1,
    )
    cache_bytes: int = setting(
        1 << 30,
        description="shard data each worker may hold in memory",
        unit="bytes",
        affects_result=False,
        ge=1 << 20,
    )
    shuffle_window: int = setting(
        32_768,
        description="samples that are permuted together after the order of blocks; part of "
        "the data order",
        unit="samples",
        ge=1,
    )
    max_bad_fraction: float = setting(
        0.01,
        description="fraction of unreadable samples above which the stage stops with exit code 3",
        affects_result=False,
        ge=0,
        le=1,
    )


class Augmentation(Settings):
    """What happens to an image before training sees it."""

    scale_min: float = setting(
        0.9, description="smallest random crop, as a fraction of the image's area", gt=0, le=1
    )
    scale_max: float = setting(
        1.0, description="largest random crop, as a fraction of the image's area", gt=0, le=1
    )
    ratio_min: float = setting(3 / 4, description="narrowest crop, width over height", gt=0)
    ratio_max: float = setting(4 / 3, description="widest crop, width over height", gt=0)
    rotation: float = setting(
        0.0, description="largest random rotation to either side", unit="degrees", ge=0, le=180
    )
    flip: bool = setting(
        False, description="mirror images at random; off because texts say left and right"
    )
    mean: tuple[float, float, float] = setting(
        (0.485, 0.456, 0.406), description="subtracted from the channels, which are in [0, 1]"
    )
    std: tuple[float, float, float] = setting(
        (0.229, 0.224, 0.225), description="divides the channels after the mean is subtracted"
    )

    @model_validator(mode="after")
    def _minima_are_below_maxima(self) -> Self:
        if self.scale_min > self.scale_max or self.ratio_min > self.ratio_max:
            raise ValueError("a minimum is above its maximum")
        return self


class Text(Settings):
    """How descriptions become labels and prompts."""

    identity: TextIdentity = setting(
        TextIdentity.CANONICAL,
        description="canonical: case, white space and entities do not matter; exact: they do",
    )
    label: CaptionLabel = setting(
        CaptionLabel.HASH,
        description="hash: equal texts share a label; unique: every pair has its own",
    )
    short_words: int = setting(
        2,
        description="texts of at most this many words are short and get a template",
        unit="words",
        ge=0,
    )
    templates: str = location(
        "imagenet",
        holds=Holds.TEMPLATES,
        description="templates for short texts: 'imagenet' (80), 'digits', 'none', or the path or "
        "s3:// URI of a text file with one per line, {} where the text goes",
        names=("imagenet", "digits", "none"),
    )

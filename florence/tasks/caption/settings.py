"""The settings of a stage that learns to describe images."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from florence.config import Evaluate, Settings
from florence.config.base import Holds, location, setting
from florence.config.evaluations import Captioning
from florence.tasks.vision_language.settings import VisionLanguageSettings


class SelfCritical(Settings):
    """Training on CIDEr-D itself, of captions that the model draws (arXiv 1612.00563)."""

    samples: int = setting(
        5,
        description="captions drawn of each image, which are measured against each other",
        unit="captions",
        ge=2,
    )


class Caption(VisionLanguageSettings):
    """One stage of captioning: texts are written from left to right."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of shards with captions (.txt, or 'captions' in the .json of which one is "
        "drawn every epoch), or of a Karpathy or COCO captions json",
        affects_result=False,
        min_length=1,
    )
    validation: str | None = location(
        None,
        holds=Holds.DATA,
        description="URI of held-out captions of the same form, on which captions are measured",
        affects_result=False,
        min_length=1,
    )
    captions_per_image: int = setting(
        5, description="captions used of each image, the first ones", unit="captions", ge=1
    )
    label_smoothing: float = setting(
        0.1, description="probability that is spread over all words", ge=0, lt=1
    )

    self_critical: SelfCritical | None = setting(
        None,
        description="train on CIDEr-D of captions that the model draws, instead of on the words of "
        "given ones: for a stage that starts from a caption model",
    )

    @model_validator(mode="after")
    def _decodes_whole_parameters(self) -> Self:
        if self.self_critical is not None and self.zero_stage == 3:
            raise ValueError(
                "selfCritical writes captions in every step, which zeroStage 3 does not allow: use "
                "at most 2"
            )
        return self

    def measured_on(self, data: str) -> Evaluate:
        """See :class:`VisionLanguageSettings`."""
        return Evaluate(captioning=(Captioning(name="caption", data=data),))

"""What every stage sets that fuses image and text."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import model_validator

from florence.config import Evaluate, Settings, Training
from florence.config.base import Holds, location, setting, settings_group


class TextEncoder(StrEnum):
    """What reads the texts."""

    ROBERTA = "roberta"
    FLORENCE = "florence"


class FusionSettings(Settings):
    """The co-attention fusion; the defaults are METER's (arXiv 2111.02387)."""

    layers: int = setting(6, description="layers of each of the two stacks", unit="layers", ge=1)
    width: int = setting(768, description="channels of both stacks", unit="channels", ge=8)
    heads: int = setting(12, description="attention heads", ge=1)
    hidden: int = setting(
        3_072, description="hidden width of a layer's feed-forward part", unit="channels", ge=1
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        return self


class RandAugmentSettings(Settings):
    """Random operations on training images (RandAugment), none of which mirrors an image."""

    operations: int = setting(
        2, description="operations drawn for each image, one after the other; 0 for none", ge=0
    )
    magnitude: float = setting(9.0, description="strength of the operations, of 10", ge=0, le=10)


class VisionLanguageSettings(Training):
    """A stage that fuses image and text."""

    text_encoder: TextEncoder | None = setting(
        None,
        description="what reads the texts: roberta, or florence, the text tower of pretraining. "
        "Default: that of the vlp, vqa or caption model that the stage starts from, else roberta",
    )
    roberta: str | None = location(
        None,
        description="folder of a RoBERTa: config.json, model.safetensors and tokenizer.json (or "
        "vocab.json and merges.txt), here or in S3. Needed where the stage starts from no model "
        "that has one",
        min_length=1,
    )
    text_length: int = setting(
        50, description="most tokens of a text, start and end included", unit="tokens", ge=4
    )
    fusion: FusionSettings | None = setting(
        None,
        description="sizes of the fusion. Default: that of the model that the stage starts from, "
        "else METER's",
    )
    dropout: float = setting(
        0.1, description="probability in RoBERTa and in the fusion", ge=0, lt=1
    )
    frozen_image: bool = setting(False, description="leave the image tower as it is")
    frozen_text: bool = setting(False, description="leave the text encoder as it is")
    fusion_lr_scale: float = setting(
        5.0, description="what the fusion's learning rate is multiplied by", gt=0
    )
    head_lr_scale: float = setting(
        5.0, description="what the head's learning rate is multiplied by", gt=0
    )
    rand_augment: RandAugmentSettings = settings_group(
        RandAugmentSettings, description="random operations on training images"
    )

    validation: str | None = location(
        None,
        holds=Holds.DATA,
        description="URI of held-out data of the same form, on which the model is measured",
        affects_result=False,
        min_length=1,
    )

    def measured_on(self, data: str) -> Evaluate:
        """The evaluation of the stage's model on held-out data of the form of its own."""
        raise NotImplementedError

    def evaluations(self, validation: str | None = None) -> Evaluate | None:
        """What is measured on held-out data.

        Args:
            validation: where that of the setting can be read; the setting itself by default.
        """
        data = validation or self.validation
        if data is None:
            return self.evaluation
        settled = {"precision": self.precision, "workers": self.loader.workers}
        return self.measured_on(data).model_copy(update=settled)

    @model_validator(mode="after")
    def _one_evaluation(self) -> Self:
        if self.validation is not None and self.evaluation is not None:
            raise ValueError("give validation or evaluation, not both")
        return self

    @model_validator(mode="after")
    def _texts_say_left_and_right(self) -> Self:
        if self.augmentation.flip:
            raise ValueError("augmentation.flip mirrors images, whose texts say left and right")
        if self.text_encoder is TextEncoder.FLORENCE and self.roberta is not None:
            raise ValueError("roberta means nothing with textEncoder florence: remove one of them")
        return self

"""The settings of vision-language pretraining."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import model_validator

from florence.config import Evaluate, Settings
from florence.config.base import Holds, location, setting
from florence.config.evaluations import Matching
from florence.errors import SettingError
from florence.tasks.vision_language.settings import TextEncoder, VisionLanguageSettings


class Negatives(StrEnum):
    """Which other image a text that does not match is put to."""

    RANDOM = "random"
    HARD = "hard"


class FurtherData(Settings):
    """A data set that is mixed with the first one."""

    data: str = location(holds=Holds.DATA, description="URI of shards with captions", min_length=1)
    weight: float = setting(
        1.0,
        description="passes over it in an epoch, in which there is one over the first data set",
        gt=0,
    )


class Vlp(VisionLanguageSettings):
    """One stage of vision-language pretraining: image-text matching and masked words."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of shards with captions (.txt, or 'captions' in the .json of which one is "
        "drawn every epoch), or of a Karpathy or COCO captions json; builtin:digits/train",
        affects_result=False,
        min_length=1,
    )
    further_data: tuple[FurtherData, ...] = setting(
        (), description="data sets that are mixed with the first one"
    )
    validation: str | None = location(
        None,
        holds=Holds.DATA,
        description="URI of held-out captions of the same form, on which matching is measured",
        affects_result=False,
        min_length=1,
    )
    captions_per_image: int = setting(
        5, description="captions used of each image, the first ones", unit="captions", ge=1
    )
    mask_fraction: float = setting(
        0.15, description="probability that a token of a text is hidden", gt=0, lt=1
    )
    whole_words: bool = setting(
        False, description="hide all tokens of a word or none, instead of tokens by themselves"
    )
    negatives: Negatives = setting(
        Negatives.RANDOM,
        description="random: any other image of the group; hard: the more similar by the two "
        "towers, the likelier (needs textEncoder florence)",
    )
    negative_group: int = setting(
        8,
        description="samples of a step among which half the texts get another one's image; a part "
        "of the result, so that this does not depend on the number of processes",
        unit="samples",
        ge=2,
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.negative_group % 2:
            raise ValueError("negativeGroup must be even: half of a group gets another image")
        if self.batch_size % self.negative_group:
            raise ValueError(
                f"batchSize={self.batch_size} does not divide into groups of negativeGroup="
                f"{self.negative_group}"
            )
        if self.negatives is Negatives.HARD and self.text_encoder is not TextEncoder.FLORENCE:
            raise ValueError("negatives hard needs textEncoder florence: it compares both towers")
        return self

    def samples_per_process(self, processes: int) -> int:
        """See :class:`Training`; each chunk of a process holds whole groups of negatives.

        Raises:
            SettingError: it does not.
        """
        samples = super().samples_per_process(processes)
        if samples % (self.negative_group * self.gradient_cache_chunks):
            raise SettingError(
                "negativeGroup",
                self.negative_group,
                f"does not divide the {samples} samples of each of {processes} processes into "
                f"{self.gradient_cache_chunks} chunks of whole groups",
            )
        return samples

    def most_processes(self, available: int) -> int:
        """See :class:`StageSettings`."""
        for processes in range(available, 1, -1):
            try:
                self.samples_per_process(processes)
            except SettingError:
                continue
            return processes
        return 1

    def measured_on(self, data: str) -> Evaluate:
        """See :class:`VisionLanguageSettings`."""
        return Evaluate(matching=(Matching(name="vlp", data=data),))

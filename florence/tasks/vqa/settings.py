"""The settings of a stage that learns to answer questions about images."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from florence.config import Evaluate
from florence.config.base import Holds, location, setting
from florence.config.evaluations import QuestionAnswering
from florence.tasks.vision_language.settings import VisionLanguageSettings


class Vqa(VisionLanguageSettings):
    """One stage of visual question answering, as classification of frequent answers."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of shards whose .json have 'questions', as 'florencectl data import vqa' "
        "writes them, or of a file of VQAv2's questions with the annotations beside it",
        affects_result=False,
        min_length=1,
    )
    validation: str | None = location(
        None,
        holds=Holds.DATA,
        description="URI of held-out questions of the same form, on which accuracy is measured",
        affects_result=False,
        min_length=1,
    )
    least_answers: int = setting(
        9,
        description="an answer can be given when it is the majority's of at least so many "
        "questions, after the challenge's normalisation",
        unit="questions",
        ge=1,
    )
    head_lr_scale: float = setting(
        50.0, description="what the head's learning rate is multiplied by", gt=0
    )

    @model_validator(mode="after")
    def _one_evaluation(self) -> Self:
        if self.validation is not None and self.evaluation is not None:
            raise ValueError("give validation or evaluation, not both")
        return self

    def evaluations(self, validation: str | None = None) -> Evaluate | None:
        """What is measured on held-out data.

        Args:
            validation: where that of the setting can be read; the setting itself by default.
        """
        data = validation or self.validation
        if data is None:
            return self.evaluation
        return Evaluate(
            question_answering=(QuestionAnswering(name="vqa", data=data),),
            precision=self.precision,
            workers=self.loader.workers,
        )

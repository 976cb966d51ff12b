"""The settings of a stage that learns to answer questions about images."""

from __future__ import annotations

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

    def measured_on(self, data: str) -> Evaluate:
        """See :class:`VisionLanguageSettings`."""
        return Evaluate(question_answering=(QuestionAnswering(name="vqa", data=data),))

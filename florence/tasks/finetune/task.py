"""What the modes of fine-tuning that train in steps are."""

from __future__ import annotations

from typing import Any

from florence.models.stored import ModelCard
from florence.stages.context import StageContext
from florence.tasks.finetune.head import HeadTraining
from florence.tasks.finetune.settings import Finetune, Mode
from florence.tasks.finetune.texts import CaptionTraining, ClassTextTraining
from florence.tasks.task import Task

_TASKS: dict[Mode, type[Any]] = {
    Mode.CONTRASTIVE: ClassTextTraining,
    Mode.HEAD: HeadTraining,
    Mode.RETRIEVAL: CaptionTraining,
}


def finetune_task(settings: Finetune, context: StageContext, card: ModelCard | None) -> Task[Any]:
    """The task of the settings' mode; see :class:`florence.tasks.task.Task`."""
    task: Task[Any] = _TASKS[settings.mode](settings, context, card)
    return task

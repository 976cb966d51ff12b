"""What a fine-tuned model is measured on."""

from __future__ import annotations

from florence.config import Evaluate
from florence.stages.context import StageContext
from florence.stages.training_data import READ_AS_THEY_ARE, imported
from florence.tasks.finetune.settings import Finetune


def evaluations(context: StageContext, settings: Finetune) -> Evaluate | None:
    """Those that the settings name, or that follow from ``validation``; collective.

    A table of validation images is imported first, as training data is.
    """
    if settings.validation is None:
        return settings.evaluation
    return settings.evaluations(imported(context, settings.validation, but=READ_AS_THEY_ARE))

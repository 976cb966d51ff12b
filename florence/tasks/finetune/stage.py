"""A fine-tuning stage of any mode: trained in steps, solved at once, or measured in episodes."""

from __future__ import annotations

from florence.errors import ConfigurationError
from florence.stages.context import StageContext
from florence.stages.train import train
from florence.tasks.finetune.few_shot import few_shot
from florence.tasks.finetune.linear_probe import probe
from florence.tasks.finetune.settings import Finetune, Mode
from florence.tasks.kind import Kind


def finetune(context: StageContext, settings: Finetune, kind: Kind) -> None:
    """Run the stage and leave ``metrics.json``, and ``model/`` but for mode fewShot.

    Raises:
        ConfigurationError: the stage starts from a model without the parts that it needs.
        DataError, StoppedError, TransientError, …: as the mode's own function.
    """
    _check_start(context, settings, kind)
    if settings.mode is Mode.LINEAR_PROBE:
        probe(context, settings)
    elif settings.mode is Mode.FEW_SHOT:
        few_shot(context, settings)
    else:
        train(context, settings, kind)


def _check_start(context: StageContext, settings: Finetune, kind: Kind) -> None:
    if context.input_model is None:
        return
    card = context.world.on_first(context.input_model.card)
    usable = kind.starts_from(settings)
    if card.task not in usable:
        raise ConfigurationError(
            f"{context.input_model.uri} is a {card.task} model: mode {settings.mode} starts from "
            f"{' or '.join(usable)} models"
        )

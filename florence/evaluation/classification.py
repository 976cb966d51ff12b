"""The evaluation ``classification``: labelled images and a model that has a head for them."""

from __future__ import annotations

from florence.config import Classification, Metric
from florence.errors import ConfigurationError
from florence.evaluation.context import EvaluationContext, Prepared, Results
from florence.evaluation.labelled_data import (
    multi_label_results,
    open_labelled,
    open_multi_labelled,
    single_label_results,
)
from florence.evaluation.metrics import from_logits
from florence.evaluation.models import card_labels
from florence.evaluation.prompts import Prompts, load_prompts


def prepare(context: EvaluationContext, settings: Classification) -> Prepared:
    """Open the data and match its classes to the head's outputs.

    Raises:
        ConfigurationError: the class names are neither given nor in the model's card, or they are
            not the data's.
        DataError: data is missing or broken; names the URI.
    """
    where = f"classification '{settings.name}'"
    names = _names(context, settings, where)
    metric = settings.metric or names.metric
    model, classes = context.model, len(names.classes)
    if metric is Metric.MAP11:
        several = open_multi_labelled(context, settings.data, names, where, "labels")

        def run_several() -> Results:
            truth, ignored = several.truth(context)
            logits = context.over_images(several.images, model, model)
            _check_outputs(logits.shape[1], classes, where)
            if not context.world.is_first:
                return Results()
            return multi_label_results(several, logits, truth, ignored)

        return Prepared(len(several.images), run_several)
    one = open_labelled(context, settings.data, names, where, "labels")

    def run() -> Results:
        logits = context.over_images(one.images, model, model)
        _check_outputs(logits.shape[1], classes, where)
        if not context.world.is_first:
            return Results()
        result = from_logits(logits, one.labels)
        return single_label_results(settings.name, one, result, metric, prompts="")

    return Prepared(len(one.images), run)


def _names(context: EvaluationContext, settings: Classification, where: str) -> Prompts:
    if settings.labels is not None:
        return load_prompts(settings.labels, context.s3)
    labels = card_labels(context.card)
    if labels is None:
        raise ConfigurationError(
            f"{where}: the model's card names no classes: set labels, "
            "or evaluate a model that was trained with a head"
        )
    return Prompts(labels, ("{}",))


def _check_outputs(outputs: int, classes: int, where: str) -> None:
    if outputs != classes:
        raise ConfigurationError(
            f"{where}: the model's head has {outputs} outputs and labels {classes} names: "
            "list one name per output"
        )

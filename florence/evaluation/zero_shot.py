"""The evaluation ``zeroShot``: labelled images, classified by comparing them with texts."""

from __future__ import annotations

from torch import Tensor

from florence.config import Baseline, Metric, ZeroShot
from florence.errors import ConfigurationError
from florence.evaluation.baseline import pixels, svm_rbf
from florence.evaluation.classify import ensemble, first_of_name, zero_shot
from florence.evaluation.context import EvaluationContext, Prepared, Results
from florence.evaluation.labelled_data import (
    Labelled,
    MultiLabelled,
    multi_label_results,
    open_labelled,
    open_multi_labelled,
    single_label_results,
)
from florence.evaluation.models import ImageTextEncoder
from florence.evaluation.prompts import Prompts, load_prompts
from florence.text.templates import render


def prepare(context: EvaluationContext, settings: ZeroShot) -> Prepared:
    """Open the data and match its classes to the prompts'.

    Raises:
        ConfigurationError: prompts cannot be read or do not fit the data's class names, the model
            has no text tower, or there is a baseline of images with several classes.
        DataError: data is missing or broken; names the URI.
    """
    where = f"zeroShot '{settings.name}'"
    model = context.model
    if not isinstance(model, ImageTextEncoder):
        raise ConfigurationError(f"{where}: the model has no text tower: use classification")
    prompts = load_prompts(settings.prompts, context.s3)
    metric = settings.metric or prompts.metric
    texts = len(prompts.classes) * len(prompts.templates)
    if metric is Metric.MAP11:
        if settings.baseline is not Baseline.NONE:
            raise ConfigurationError(f"{where}: baseline needs images of one class each")
        several = open_multi_labelled(context, settings.data, prompts, where)
        return Prepared(
            len(several.images) + texts, lambda: _several(context, model, several, prompts)
        )
    one = open_labelled(context, settings.data, prompts, where)
    train = None
    if settings.baseline_data is not None and settings.baseline is Baseline.SVM:
        # By every rank, although rank 0 alone fits it: opening is collective.
        train = open_labelled(context, settings.baseline_data, prompts, f"{where} baseline")
    return Prepared(
        len(one.images) + texts,
        lambda: _single(context, model, settings, one, train, prompts, metric),
    )


def _single(
    context: EvaluationContext,
    model: ImageTextEncoder,
    settings: ZeroShot,
    data: Labelled,
    train: Labelled | None,
    prompts: Prompts,
    metric: Metric,
) -> Results:
    images, classes = _embeddings(context, model, data, prompts)
    if not context.world.is_first:
        return Results()
    same_as = first_of_name(prompts.classes)
    result = zero_shot(images, classes, data.labels, same_as=same_as)
    results = single_label_results(settings.name, data, result, metric, settings.prompts)
    if train is not None:
        accuracy = _baseline(train, data)
        results.metrics[f"baseline/{settings.baseline.value}"] = accuracy
    return results


def _several(
    context: EvaluationContext, model: ImageTextEncoder, data: MultiLabelled, prompts: Prompts
) -> Results:
    truth, ignored = data.truth(context)
    images, classes = _embeddings(context, model, data, prompts)
    if not context.world.is_first:
        return Results()
    return multi_label_results(data, images @ classes.T, truth, ignored)


def _embeddings(
    context: EvaluationContext,
    model: ImageTextEncoder,
    data: Labelled | MultiLabelled,
    prompts: Prompts,
) -> tuple[Tensor, Tensor]:
    groups = [[render(t, name) for t in prompts.templates] for name in prompts.classes]
    classes = context.over_groups(groups, model, ensemble)
    return context.over_images(data.images, model, model.encode_image), classes


def _baseline(train: Labelled, test: Labelled) -> float:
    fit = pixels(train.images.image(i) for i in range(len(train.images)))
    side = round(fit.shape[1] ** 0.5)
    held_out = pixels((test.images.image(i) for i in range(len(test.images))), side)
    return svm_rbf(fit, train.labels.numpy(), held_out, test.labels.numpy())

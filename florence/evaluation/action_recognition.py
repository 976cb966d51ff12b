"""The evaluation ``actionRecognition``: videos and a model that was trained to name actions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from florence.config import Metric
from florence.config.evaluations import ActionRecognition
from florence.errors import ConfigurationError, DataError
from florence.evaluation.class_names import class_numbers
from florence.evaluation.clips import StoredClips, ViewLooks, open_clips, over_clips, strip
from florence.evaluation.context import EvaluationContext, Prepared, Results
from florence.evaluation.labelled_data import Labelled, single_label_results
from florence.evaluation.metrics import check_labels, from_logits
from florence.evaluation.models import card_labels
from florence.evaluation.prompts import Prompts
from florence.models.video_models import sampling_of

SHOWN = 6
"""Clips in the picture of frames."""


def prepare(context: EvaluationContext, settings: ActionRecognition) -> Prepared:
    """Open the clips and match their classes to the head's outputs.

    Raises:
        ConfigurationError: the model's classes are not the data's.
        DataError: data is missing, or a clip has no class; names the URI.
    """
    where = f"actionRecognition '{settings.name}'"
    names = card_labels(context.card)
    if names is None:
        raise ConfigurationError(f"{where}: the model's card names no classes")
    clips = open_clips(context, settings.data)
    data = labelled_clips(clips, Prompts(names, ("{}",)), settings.data, where)
    looks = ViewLooks(sampling_of(context.card), settings.views, context.resolution)
    model = context.model

    def run() -> Results:
        chances = over_clips(context, clips, looks, model, model, mean_of_softmax)
        if not context.world.is_first:
            return Results()
        return action_results(settings.name, clips, data, chances, prompts="")

    return Prepared(len(clips), run)


def mean_of_softmax(logits: Tensor) -> Tensor:
    """The mean over views of their probabilities: (V, C) to (C,)."""
    return logits.softmax(dim=1).mean(dim=0)


def labelled_clips(clips: StoredClips, prompts: Prompts, uri: str, where: str) -> Labelled:
    """Clips with the numbers of their classes among the prompts'.

    Raises:
        ConfigurationError: the data's class names are others.
        DataError: a clip has no class, or its number names none.
    """
    labels = torch.from_numpy(clips.shards.class_indices())
    if int(labels.min()) < 0:
        lacking = int((labels < 0).int().argmax())
        raise DataError(f"{uri}: clip {clips.shards.key(lacking)} has no class: add a .cls")
    if clips.shards.class_names is not None:
        check_labels(labels, len(clips.shards.class_names))
        numbers = class_numbers(
            clips.shards.class_names, prompts, field=f"{where}: labels", data=uri
        )
        labels = torch.from_numpy(np.asarray(numbers))[labels]
    check_labels(labels, len(prompts.classes))
    return Labelled(clips, labels, prompts)


def action_results(
    name: str, clips: StoredClips, data: Labelled, scores: Tensor, *, prompts: str
) -> Results:
    """Top-1, top-5 and mean per class, the confusion matrix, and a strip of frames."""
    result = from_logits(scores, data.labels)
    results = single_label_results(name, data, result, Metric.ACCURACY, prompts)
    results.metrics["meanPerClass"] = result.mean_per_class
    classes, found = data.prompts.classes, scores.argmax(dim=1).tolist()
    places = np.linspace(0, len(clips) - 1, min(SHOWN, len(clips))).astype(int).tolist()
    titles = [
        (i, f"truth: {classes[int(data.labels[i])]}   predicted: {classes[found[i]]}")
        for i in places
    ]
    pictures = {**results.pictures, "clips": strip(clips, titles)}
    return replace(results, pictures=pictures, example=None)

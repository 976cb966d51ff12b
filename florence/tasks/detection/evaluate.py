"""The evaluation ``detection``: boxes of a detector of any sort against those of people.

Every image is looked at by one rank, at its own size and alone, so that the result does not depend
on how many ranks there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from florence.config.detection import Detection
from florence.data.boxes import AnnotatedImage
from florence.data.images import BrokenImageError, decode
from florence.data.ordered_map import map_in_threads
from florence.data.shards import BrokenSampleError, Need, ShardSet
from florence.data.vocabularies import Vocabularies
from florence.errors import ConfigurationError, DataError
from florence.evaluation.context import EvaluationContext, Prepared, Results
from florence.evaluation.models import ModelCard, ScaledEncoder, inference
from florence.evaluation.prompts import load_prompts
from florence.models.opening import open_stored
from florence.models.stored import two_tower_of
from florence.tasks.detection.box_metrics import FoundBoxes, measure, measured_names
from florence.tasks.detection.decode import Detections
from florence.tasks.detection.detector import Detector
from florence.tasks.detection.looking import Look
from florence.tasks.detection.report import box_results
from florence.tasks.detection.shape import ZERO_SHOT_DETECTION
from florence.tasks.detection.stream import record_of
from florence.tasks.detection.training_set import vocabularies_of
from florence.tasks.detection.zero_shot import BoxClassifier, classifier_of, named
from florence.text.templates import IMAGENET

Finder = Callable[[Image.Image], Detections]


@dataclass(frozen=True)
class HeldOutBoxes:
    """Images with boxes, by number."""

    shards: ShardSet
    vocabularies: Vocabularies

    def __len__(self) -> int:
        return len(self.shards)

    def image(self, number: int) -> tuple[Image.Image, AnnotatedImage]:
        """An image and what is in it. Raises :class:`DataError` when it is broken; names it."""
        try:
            sample = self.shards.read(number)
            return decode(sample.image_bytes), record_of(sample)
        except BrokenSampleError as error:
            raise DataError(f"{self.shards.uri}: {error}") from error
        except BrokenImageError as error:
            where = f"{self.shards.shard_of(number)}: sample {self.shards.key(number)}"
            raise DataError(f"{where}: {error}: replace or remove it") from error


def prepare(context: EvaluationContext, settings: Detection) -> Prepared:
    """Open the data and match its classes to the detector's.

    Raises:
        ConfigurationError: the model finds none of the data's classes, or settings are for a
            detector of another sort.
        DataError: data is missing or broken; names the URI.
    """
    where = f"detection '{settings.name}'"
    model = context.model
    if not isinstance(model, Detector):
        raise ConfigurationError(f"{where}: the model finds no boxes: give a detector")
    shards = ShardSet.open(settings.data, context.s3, need=Need.IMAGE, **context.opening)
    data = HeldOutBoxes(shards, context.world.on_first(lambda: vocabularies_of(shards)))
    if context.card.task == ZERO_SHOT_DETECTION:
        return Prepared(
            len(data),
            lambda: _run(context, settings, data, *_naming(context, settings, model, data)),
        )
    if settings.prompts is not None or settings.classifier is not None:
        raise ConfigurationError(
            f"{where}: prompts and classifier are for zero-shot detectors, this one has classes of "
            "its own: remove them"
        )
    names = context.card.labels
    known = measured_names((), data.vocabularies)
    if not set(names) & set(known):
        raise ConfigurationError(
            f"{where}: the model finds none of the {len(known)} classes of {settings.data}, such "
            f"as '{known[0]}': give data of its own classes, such as '{names[0]}'"
        )
    look = _look(context, settings, model)
    return Prepared(len(data), lambda: _run(context, settings, data, names, look.found))


def _look(context: EvaluationContext, settings: Detection, model: Detector) -> Look:
    card = context.card
    return Look(model, card.mean, card.std, context.resolution, settings.inference)


def _naming(
    context: EvaluationContext, settings: Detection, model: Detector, data: HeldOutBoxes
) -> tuple[tuple[str, ...], Finder]:
    """The names that a zero-shot detector is asked for, and how it finds them."""
    towers: ScaledEncoder = model
    card: ModelCard = context.card
    if settings.classifier is not None:
        stored = open_stored(settings.classifier, context.s3)
        card = stored.card
        towers = two_tower_of(stored, device=str(context.world.device))
    names = measured_names((), data.vocabularies)
    templates = card.templates or IMAGENET
    if settings.prompts is not None:
        prompts = load_prompts(settings.prompts, context.s3)
        names, templates = prompts.classes, prompts.templates
    look = _look(context, settings, model)
    made: list[BoxClassifier] = []

    def find(image: Image.Image) -> Detections:
        if not made:
            made.append(classifier_of(towers, card, names, templates, settings.inference))
        return named(look, made[0], image, settings.inference)

    return names, find


def _run(
    context: EvaluationContext,
    settings: Detection,
    data: HeldOutBoxes,
    names: Sequence[str],
    find: Finder,
) -> Results:
    """Look at every image, on all ranks, and measure on rank 0; collective."""
    measured = measured_names((), data.vocabularies)
    place = {name: number for number, name in enumerate(measured)}
    numbers = np.array([place.get(name, -1) for name in names], np.int64)
    pairs = _over_images(context, data, find, numbers)
    if not context.world.is_first:
        return Results()
    images = [image for image, _ in pairs]
    found = [each for _, each in pairs]
    result = measure(
        images,
        found,
        measured,
        data.vocabularies,
        metric=settings.metric,
        max_detections=settings.inference.max_detections,
    )
    return box_results(settings.name, data.image, images, found, measured, result)


def _over_images(
    context: EvaluationContext, data: HeldOutBoxes, find: Finder, numbers: Any
) -> list[tuple[AnnotatedImage, FoundBoxes]]:
    """What is in each image and what was found there, on every rank.

    Every rank looks equally often, at its last image again where it has fewer: a model whose
    parameters are gathered at every call is called by all ranks together.
    """
    rank, size = context.world.rank, context.world.size
    count = math.ceil(len(data) / size)
    share = [min(step * size + rank, len(data) - 1) for step in range(count)]
    mine = []
    with inference(context.model, context.precision):
        for image, record in map_in_threads(data.image, share, max(context.workers, 1)):
            mine.append((record, _arrays(find(image).cpu(), numbers)))
            context.watch(1)
    whole: list[Any] = [None] * len(data)
    for other, part in enumerate(context.world.all_gather_object(mine)):
        whole[other::size] = part[: len(range(other, len(data), size))]
    return whole


def _arrays(found: Detections, numbers: Any) -> FoundBoxes:
    """Boxes by the data's class numbers; those of classes that it does not have are left out."""
    labels = numbers[found.labels.numpy()]
    kept = labels >= 0
    return FoundBoxes(found.boxes.numpy()[kept], found.scores.numpy()[kept], labels[kept])

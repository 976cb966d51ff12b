"""The evaluation ``matching``: held-out images with their own captions and with others'."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from florence.config.evaluations import Matching
from florence.data.labelled import CaptionedImages, image_batches
from florence.errors import ConfigurationError, DataError
from florence.evaluation.context import EvaluationContext, Prepared, Results
from florence.evaluation.embed import inference
from florence.tasks.vision_language.held_out import open_captions
from florence.tasks.vision_language.texts import coded_texts
from florence.tasks.vlp.model import PretrainingModel
from florence.text.normalisation import text_label


def prepare(context: EvaluationContext, settings: Matching) -> Prepared:
    """Open images and captions.

    Raises:
        ConfigurationError: the model does not match images and texts.
        DataError: data is missing or broken, or all captions are the same; names the URI.
    """
    model = context.model
    if not isinstance(model, PretrainingModel):
        raise ConfigurationError(
            f"matching '{settings.name}': the model does not tell whether image and text match"
        )
    data = open_captions(context, settings.data)
    others = foreign_captions(data.captions, settings.data)
    texts = [(group[0], other) for group, other in zip(data.captions, others, strict=True)]

    def run() -> Results:
        found = _probabilities(context, model, data, texts)
        if not context.world.is_first:
            return Results()
        own, foreign = found[:, 0] > 0.5, found[:, 1] <= 0.5
        return Results(
            metrics={
                "accuracy": float(torch.cat([own, foreign]).float().mean()),
                "own": float(own.float().mean()),
                "foreign": float(foreign.float().mean()),
                # Which of its two captions fits an image better: no threshold decides.
                "ranking": float((found[:, 0] > found[:, 1]).float().mean()),
            }
        )

    return Prepared(len(data), run)


def foreign_captions(captions: Sequence[Sequence[str]], uri: str) -> list[str]:
    """For each image the first caption of a later one that is none of its own, cyclically.

    Raises:
        DataError: an image has the captions of all others.
    """
    labels = [frozenset(map(text_label, group)) for group in captions]
    firsts = [text_label(group[0]) for group in captions]
    count, found = len(captions), []
    for image in range(count):
        later = ((image + step) % count for step in range(1, count))
        other = next((i for i in later if firsts[i] not in labels[image]), None)
        if other is None:
            raise DataError(f"{uri}: all captions are the same: give more than one")
        found.append(captions[other][0])
    return found


def _probabilities(
    context: EvaluationContext,
    model: PretrainingModel,
    data: CaptionedImages,
    texts: Sequence[tuple[str, str]],
) -> Tensor:
    """Of each image with its own caption and with another's: (N, 2) on every rank."""

    def rows(share: Sequence[int]) -> Tensor:
        batches = image_batches(
            data.images,
            resolution=context.resolution,
            mean=context.card.mean,
            std=context.card.std,
            batch_size=context.batch_size,
            workers=context.workers,
            indices=share,
        )
        found, start = [], 0
        with inference(model, context.precision) as device:
            for images in batches:
                pairs = [texts[i] for i in share[start : start + len(images)]]
                flat = [text for pair in pairs for text in pair]
                ids, lengths = coded_texts(flat, model.shape, device)
                pixels = model.image_tokens(images.to(device, non_blocking=True))
                pixels = pixels.repeat_interleave(2, dim=0)
                found.append(model.match_tokens(pixels, ids, lengths).view(-1, 2).cpu())
                start += len(images)
                context.watch(len(images))
        return torch.cat(found)

    return context.dealt(len(data), rows)

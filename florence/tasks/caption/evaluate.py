"""The evaluation ``captioning``: captions of held-out images beside those that people wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from florence.config.evaluations import Captioning
from florence.data.labelled import CaptionedImages, image_batches
from florence.errors import ConfigurationError
from florence.evaluation.context import EvaluationContext, Prepared, Results
from florence.evaluation.embed import inference
from florence.evaluation.picture_grid import picture_grid
from florence.tasks.caption.java_metrics import JavaMetrics
from florence.tasks.caption.model import CaptionModel
from florence.tasks.caption.predict import write_captions
from florence.tasks.vision_language.held_out import open_captions
from florence.text.caption_metrics import caption_metrics

SHOWN = 8


def prepare(context: EvaluationContext, settings: Captioning) -> Prepared:
    """Open images and captions.

    Raises:
        ConfigurationError: the model writes no captions.
        DataError: data is missing or broken; names the URI.
    """
    model = context.model
    if not isinstance(model, CaptionModel):
        raise ConfigurationError(f"captioning '{settings.name}': the model writes no captions")
    java = None
    if settings.jars is not None and context.world.is_first:
        java = JavaMetrics.found(settings.jars)
    data = open_captions(context, settings.data)

    def run() -> Results:
        tokens = _tokens(context, model, settings, data)
        if not context.world.is_first:
            return Results()
        written = model.texts(tokens.long())
        given = [{"image_id": i, "caption": text} for i, text in enumerate(written)]
        table = [
            {"image": i, "caption": text, "reference": group[0]}
            for i, (text, group) in enumerate(zip(written, data.captions, strict=True))
        ]
        return Results(
            metrics={
                **caption_metrics(written, data.captions),
                **(java.measure(written, data.captions) if java else {}),
            },
            tables={"captions": table},
            pictures={"captions": _grid(settings.name, data, written)},
            files={f"{settings.name}-captions.json": json.dumps(given).encode()},
        )

    return Prepared(len(data), run)


def _tokens(
    context: EvaluationContext, model: CaptionModel, settings: Captioning, data: CaptionedImages
) -> Tensor:
    """The tokens of each image's caption: (N, T) on every rank, padded."""
    length, padding = model.shape.text_length - 1, model.shape.coder.padding

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
        found = []
        with inference(model, context.precision) as device:
            for images in batches:
                written = write_captions(
                    model,
                    images.to(device, non_blocking=True),
                    beams=settings.beams,
                    length_penalty=settings.length_penalty,
                    no_repeat=settings.no_repeat,
                )
                tokens = torch.full((len(images), length), padding)
                tokens[:, : written.tokens.shape[1]] = written.tokens.cpu()
                found.append(tokens)
                context.watch(len(images))
        return torch.cat(found)

    return context.dealt(len(data), rows)


def _grid(name: str, data: CaptionedImages, written: Sequence[str]) -> bytes:
    shown = range(0, len(written), max(1, len(written) // SHOWN))[:SHOWN]
    texts = [f"{written[i]}\ntruth: {data.captions[i][0]}" for i in shown]
    return picture_grid([data.images.image(i) for i in shown], texts, title=name)

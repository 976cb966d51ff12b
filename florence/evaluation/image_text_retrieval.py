"""The evaluation ``retrieval``: images find their captions, captions their image."""

from __future__ import annotations

import torch

from florence.config import Retrieval, RetrievalFormat, RetrievalLabel
from florence.data.labelled import CaptionedImages
from florence.errors import ConfigurationError
from florence.evaluation.context import EvaluationContext, Prepared, Results
from florence.evaluation.models import ImageTextEncoder
from florence.evaluation.retrieval import RetrievalResult, recall_at_k, recall_of_texts


def prepare(context: EvaluationContext, settings: Retrieval) -> Prepared:
    """Open images and captions.

    Raises:
        ConfigurationError: the model has no text tower.
        DataError: data is missing or broken; names the URI.
    """
    model = context.model
    if not isinstance(model, ImageTextEncoder):
        raise ConfigurationError(f"retrieval '{settings.name}': the model has no text tower")
    data = _open(settings, context)
    captions = [group[: settings.captions_per_image] for group in data.captions]
    texts = [caption for group in captions for caption in group]
    owners = torch.tensor([i for i, group in enumerate(captions) for _ in group])

    def run() -> Results:
        images = context.over_images(data.images, model, model.encode_image)
        embeddings = context.over_texts(texts, model)
        if not context.world.is_first:
            return Results()
        if settings.label is RetrievalLabel.TEXT:
            return Results(metrics=_recalls(recall_of_texts(images, embeddings, texts, owners)))
        return Results(metrics=_recalls(recall_at_k(images, embeddings, owners)))

    return Prepared(len(data) + len(set(texts)), run)


def _open(settings: Retrieval, context: EvaluationContext) -> CaptionedImages:
    s3 = context.s3
    if settings.format is RetrievalFormat.KARPATHY:
        return CaptionedImages.from_karpathy(
            settings.data, images=settings.images, split=settings.split, s3=s3
        )
    if settings.format is RetrievalFormat.FOLDER:
        return CaptionedImages.from_folder(settings.data, s3)
    return CaptionedImages.from_shards(settings.data, s3, **context.opening)


def _recalls(result: RetrievalResult) -> dict[str, float]:
    both = {"imageToText": result.image_to_text, "textToImage": result.text_to_image}
    return {
        f"{direction}/R@{k}": recall
        for direction, recalls in both.items()
        for k, recall in recalls.items()
    }

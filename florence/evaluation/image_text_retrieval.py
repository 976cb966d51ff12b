"""The evaluation ``retrieval``: images find their captions, captions their image."""

from __future__ import annotations

import torch

from florence.config import Retrieval, RetrievalFormat, RetrievalLabel
from florence.data.labelled import CaptionedImages
from florence.errors import ConfigurationError
from florence.evaluation.context import EvaluationContext, Prepared, Results
from florence.evaluation.models import ImageTextEncoder
from florence.evaluation.reranking import Matcher, reranked
from florence.evaluation.retrieval import (
    RetrievalResult,
    recall_at_k,
    recall_of_scores,
    recall_of_texts,
)


def prepare(context: EvaluationContext, settings: Retrieval) -> Prepared:
    """Open images and captions.

    Raises:
        ConfigurationError: the model has no text tower.
        DataError: data is missing or broken; names the URI.
    """
    model = context.model
    if not isinstance(model, ImageTextEncoder) or not getattr(model, "has_text_tower", True):
        raise ConfigurationError(f"retrieval '{settings.name}': the model has no text tower")
    if settings.rerank and not isinstance(model, Matcher):
        raise ConfigurationError(
            f"retrieval '{settings.name}': rerank needs the matching head of a vlp model: remove it"
        )
    data = _open(settings, context)
    captions = [group[: settings.captions_per_image] for group in data.captions]
    texts = [caption for group in captions for caption in group]
    owners = torch.tensor([i for i, group in enumerate(captions) for _ in group])

    def run() -> Results:
        images = context.over_images(data.images, model, model.encode_image)
        embeddings = context.over_texts(texts, model)
        by_text = texts if settings.label is RetrievalLabel.TEXT else None
        if settings.rerank:
            assert isinstance(model, Matcher)
            scores = embeddings @ images.T
            both = reranked(context, model, data.images, texts, scores, settings.rerank)
            return Results(metrics=_recalls(recall_of_scores(*both, by_text, owners)))
        if not context.world.is_first:
            return Results()
        if by_text is not None:
            return Results(metrics=_recalls(recall_of_texts(images, embeddings, texts, owners)))
        return Results(metrics=_recalls(recall_at_k(images, embeddings, owners)))

    pairs = settings.rerank * (len(data) + len(texts))
    return Prepared(len(data) * (1 + bool(pairs)) + len(set(texts)) + pairs, run)


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

"""Held-out captions, in shards or in Karpathy's json."""

from __future__ import annotations

from florence.data.labelled import CaptionedImages
from florence.evaluation.context import EvaluationContext


def open_captions(context: EvaluationContext, uri: str) -> CaptionedImages:
    """Images with their captions; of a Karpathy json its test split.

    Raises:
        DataError: data is missing or broken; names the URI.
    """
    if uri.endswith(".json"):
        return CaptionedImages.from_karpathy(uri, s3=context.s3)
    return CaptionedImages.from_shards(uri, context.s3, **context.opening)

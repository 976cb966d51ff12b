"""A stage's training data: opened once for all ranks."""

from __future__ import annotations

from typing import Any

from florence.data.shards import ShardSet
from florence.stages.context import StageContext


def open_training_shards(context: StageContext, uri: str, **options: Any) -> ShardSet:
    """The shards at a URI, as :meth:`florence.data.shards.ShardSet.open` takes ``options``."""
    return ShardSet.open(uri, context.s3, **options)

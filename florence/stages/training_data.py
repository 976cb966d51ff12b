"""A stage's training data: opened once for all ranks, imported first where it is no shards yet."""

from __future__ import annotations

from typing import Any

from florence.config.progress import StageProgress
from florence.data.shards import ShardSet
from florence.stages.context import StageContext


def open_training_shards(context: StageContext, uri: str, **options: Any) -> ShardSet:
    """The shards at a URI, read by rank 0 for all ranks; collective.

    Shards without an index are read in memory where one machine trains, with a sign of life for
    every shard, and refused where several would wait.

    Args:
        options: of :meth:`florence.data.shards.ShardSet.open`.
    """
    world = context.world

    def tell(done: int, total: int) -> None:
        if world.is_first:
            context.report(StageProgress(phase="index", step=done, total=total))

    return ShardSet.open(
        uri,
        context.s3,
        share=world.on_first,
        allow_unindexed=world.size == world.local_size,
        on_shard=tell,
        **options,
    )

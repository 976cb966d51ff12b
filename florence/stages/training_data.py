"""A stage's training data: opened once for all ranks, imported first where it is no shards yet."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from florence.config import Training
from florence.config.progress import StageProgress
from florence.data.importing.once import detect_format, import_once
from florence.data.mixture import Mixture
from florence.data.shards import ShardSet
from florence.data.stream import BatchT, ItemT, SampleReader, ShardStream
from florence.errors import ConfigurationError
from florence.stages.context import StageContext
from florence.stages.long_work import computed_by_first

READ_AS_THEY_ARE = ("class-folders", "karpathy")
"""Formats that evaluations and probes read without an import."""


def open_training_shards(context: StageContext, uri: str, **options: Any) -> ShardSet:
    """The shards at a URI, or made of what is there, read by rank 0 for all ranks; collective.

    Shards without an index are read in memory where one machine trains, with a sign of life for
    every shard, and refused where several would wait.

    Args:
        options: of :meth:`florence.data.shards.ShardSet.open`.

    Raises:
        ConfigurationError: it is to be imported and several machines train.
        DataError: there is no usable data.
    """
    world = context.world

    def tell(done: int, total: int) -> None:
        if world.is_first:
            context.report(StageProgress(phase="index", phase_fraction=done / total))

    return ShardSet.open(
        imported(context, uri),
        context.s3,
        share=world.on_first,
        allow_unindexed=world.size == world.local_size,
        on_shard=tell,
        **options,
    )


def training_stream(
    context: StageContext,
    settings: Training,
    shards: ShardSet | Mixture,
    reader: SampleReader[ItemT, BatchT],
) -> ShardStream[ItemT, BatchT]:
    """The batches of a stage that trains; ``reader`` says what a sample becomes."""
    return ShardStream(
        shards,
        reader,
        seed=settings.seed,
        batch_size=settings.batch_size,
        loader=settings.loader,
        device=context.world.device,
    )


def imported(context: StageContext, uri: str, *, but: tuple[str, ...] = ()) -> str:
    """The URI itself for shards, or the folder of shards that were made of what is there.

    Rank 0 imports, into the home folder, once for all jobs of this machine; collective.

    Args:
        but: formats that are left as they are.

    Raises:
        ConfigurationError: several machines would have to import; names the command to run.
        DataError: the source is missing or unusable.
        StoppedError: the stage was asked to stop; the import goes on next time.
    """
    world, s3 = context.world, context.s3

    def kind() -> str | None:
        found = detect_format(uri, s3)
        return found.name if found else None

    format_name = world.on_first(kind)
    if format_name is None or format_name in but:
        return uri
    if world.size > world.local_size:
        raise ConfigurationError(
            f"{uri} is {format_name} and would be imported on one machine only, but several train: "
            f"run 'florencectl data import {format_name} {shlex.quote(uri)} OUT' with OUT where "
            "all of them can read it, and give OUT"
        )

    def work(beat: Callable[[], None]) -> str:
        def tell(name: str, rows: int, samples: int) -> None:
            context.report(StageProgress(phase="import", step=rows, samples=samples))
            beat()

        context.report(StageProgress(phase="import"))
        return str(import_once(uri, s3=s3, on_shard=tell))

    return computed_by_first(context, work, then="the import goes on next time")

"""A stage that trains, of any kind: from data and a start to a final model."""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from florence.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    Exchange,
    GlooExchange,
    SingleProcess,
    begin_attempt,
    configuration_digest,
    newest,
    write_final_model,
)
from florence.config import ChangedSettings, Training
from florence.config.progress import StageProgress
from florence.data.bad_samples import DECIDE_AFTER, BadSampleCounter
from florence.distributed.engine import Engine
from florence.distributed.engines import make_engine
from florence.distributed.schedule import warmup_steps
from florence.errors import ConfigurationError, DataError
from florence.models.stored import ModelCard, model_bytes
from florence.stages.context import StageContext
from florence.stages.evaluation import HeldOut, write_results
from florence.stages.fingerprint import differences, stage_fingerprint
from florence.stages.phase_clock import PhaseClock
from florence.stages.step_metrics import StepMetrics, utilisation
from florence.stages.trainer import Trainer
from florence.tasks.kind import Kind
from florence.tasks.task import Stream, Task

log = logging.getLogger(__name__)


def train(context: StageContext, settings: Training, kind: Kind) -> None:
    """Train as the kind's task says and leave ``model/`` and ``metrics.json`` in the artifacts.

    Training starts from the newest commit of the stage, else from the model it is given, else from
    the seed.

    Raises:
        ConfigurationError: the settings differ from the checkpoint's, or do not fit the model.
        DataError: the data is missing or too much of it is unreadable.
        DivergedError, StoppedError, TransientError: see :class:`florence.stages.trainer.Trainer`.
    """
    phases = PhaseClock(context.clock)
    context.report(StageProgress(phase="start", total=settings.planned_steps or 0))
    context, card = _with_input_architecture(context, settings, kind)
    task: Task[Any] = pkgutil.resolve_name(kind.task or "")(settings, context, card)
    stream = task.stream()
    steps = settings.total_steps(len(stream))
    fingerprint = stage_fingerprint(context.architecture, settings, stream.fingerprint)
    exchange = GlooExchange() if context.world.size > 1 else SingleProcess()
    unusable: list[str] = []

    def pass_over(reason: str) -> None:
        log.warning("%s", reason)
        unusable.append(reason)

    checkpoint = begin_attempt(
        context.output,
        attempt=context.attempt,
        on_skip=pass_over,
        exchange=exchange,
        clock=context.clock,
        on_progress=lambda done, total: context.report(
            StageProgress(phase="restore", phase_fraction=done / total if total else None)
        ),
        wanted=partial(_is_usable, fingerprint, settings.checkpoints.if_settings_changed),
    )
    if checkpoint is not None and checkpoint.step > steps:
        raise ConfigurationError(
            f"{checkpoint.uri} has {checkpoint.step} steps and the stage only {steps}: raise "
            "steps, or set checkpoints.ifSettingsChanged to restart"
        )
    engine = _engine(context, settings, task, fresh=checkpoint is None)
    _describe(context, settings, stream, engine, steps)
    held_out = HeldOut(context, settings, task, engine)
    if (settings.keep_best or settings.early_stop) and not held_out.is_wanted:
        raise ConfigurationError(
            "keepBest and earlyStop need something to measure: give evaluation or validation"
        )
    writer = CheckpointWriter(
        context.output,
        attempt=context.attempt,
        world=context.world,
        keep=settings.checkpoints.keep,
        exchange=exchange,
        clock=context.clock,
    )
    trainer = Trainer(
        context,
        settings,
        engine,
        steps=steps,
        samples=len(stream),
        writer=writer,
        bad_samples=BadSampleCounter(
            stream.uri,
            settings.loader.max_bad_fraction,
            decide_after=min(DECIDE_AFTER, steps * settings.batch_size),
        ),
        step_metrics=StepMetrics(
            settings,
            context.world,
            utilisation(context.architecture, settings, kind.cost, context.world),
        ),
        metadata={
            "trajectory": fingerprint,
            "digest": configuration_digest(fingerprint),
            "engine": engine.name,
            **context.provenance,
        },
        evaluate=held_out.evaluate if held_out.is_wanted else None,
        phases=phases,
    )
    trainer.tell(unusable=tuple(unusable))
    start = trainer.restore(checkpoint)
    with stream.batches(
        rank=context.world.rank, size=context.world.size, start=start, stop=steps
    ) as batches:
        steps = trainer.run(iter(batches), start)
    trainer.tell(phase="export")
    results = trainer.evaluate(steps)
    if settings.keep_best and trainer.best.is_better_than(results):
        steps = trainer.best.step
        _restore_best(context, engine, steps, exchange)
        results = trainer.evaluate(steps)
    state = engine.model_state()
    if context.world.is_first:
        _export(context, settings, task, state, steps=steps)
        metrics = {**results, "steps": float(steps), **task.results(state)}
        write_results(context, metrics, held_out.record())


def _with_input_architecture(
    context: StageContext, settings: Training, kind: Kind
) -> tuple[StageContext, ModelCard | None]:
    """The context with the architecture of the model that the stage starts from, and its card."""
    if context.input_model is None:
        return context, None
    card = context.world.on_first(context.input_model.card)
    usable = kind.starts_from(settings)
    if card.task not in usable:
        raise ConfigurationError(
            f"{context.input_model.uri}: a {kind.name} stage cannot start from a {card.task} "
            f"model: it takes {' or '.join(usable) or 'no'} models"
        )
    if card.architecture != context.architecture:
        log.warning(
            "The architecture of %s is trained, not that of spec.model", context.input_model.uri
        )
    return replace(context, architecture=card.architecture), card


def _engine(context: StageContext, settings: Training, task: Task[Any], *, fresh: bool) -> Engine:
    source = context.input_model.open() if context.input_model is not None and fresh else None
    model = task.model(source, init=fresh)
    return make_engine(
        settings.engine, model, settings, task.objective(), context.world, rules=task.rules(model)
    )


def _restore_best(context: StageContext, engine: Engine, step: int, exchange: Exchange) -> None:
    """Put the engine back to the step of the best evaluation, whose checkpoint was spared."""
    checkpoint = newest(context.output, attempt_limit=context.attempt, step=step, exchange=exchange)
    if checkpoint is None:
        raise DataError(
            f"{context.output.uri}: the checkpoint of step {step}, the best by its evaluation, is "
            "gone: run the stage again without keepBest to have the model of its last step"
        )
    log.info("The model of step %d is the best by its evaluation, and is kept", step)
    engine.restore(checkpoint)


def _is_usable(
    fingerprint: Mapping[str, Any], policy: ChangedSettings, checkpoint: Checkpoint
) -> bool:
    """Whether an attempt goes on from a checkpoint. Raises where it may neither do so nor not."""
    changed = "; ".join(differences(checkpoint.metadata["trajectory"], fingerprint))
    if not changed:
        return True
    match policy:
        case ChangedSettings.CONTINUE:
            log.warning("Going on from step %d with other settings: %s", checkpoint.step, changed)
            return True
        case ChangedSettings.RESTART:
            log.warning("Starting over, step %d had other settings: %s", checkpoint.step, changed)
            return False
    raise ConfigurationError(
        f"{checkpoint.uri} was trained with other settings ({changed}): put them back, give the "
        "job another name, or set checkpoints.ifSettingsChanged to continue or restart"
    )


def _describe(
    context: StageContext, settings: Training, stream: Stream[Any], engine: Engine, steps: int
) -> None:
    """Record what is trained on what, with the settings as they take effect."""
    log.info("Training on %d samples of %s with engine %s", len(stream), stream.uri, engine.name)
    if not context.world.is_first:
        return
    context.recorder.parameters(
        {
            "model": context.architecture.wire(),
            "stage": as_used(settings, steps).wire(),
            "engine": engine.name,
        }
    )
    context.recorder.dataset(stream.uri, stream.fingerprint, len(stream), "train")


def as_used(settings: Training, steps: int) -> Training:
    """The settings with what a stage of ``steps`` makes of them: its steps and its warm-up."""
    warmup = warmup_steps(steps, settings.optimizer)
    optimizer = settings.optimizer.model_copy(update={"warmup_steps": warmup})
    return settings.model_copy(update={"steps": steps, "optimizer": optimizer})


def _export(
    context: StageContext,
    settings: Training,
    task: Task[Any],
    state: Mapping[str, Any],
    *,
    steps: int,
) -> None:
    """Write the final model; on rank 0."""
    trained = {**context.provenance, "steps": steps, "samples": steps * settings.batch_size}
    card = task.card().model_copy(update={"trained": trained})
    files = model_bytes(dict(state), card)
    write_final_model(context.output, files, attempt=context.attempt)
    context.recorder.model(files, context.output.url("model"))

"""The pretraining stage: image-text pairs in, a two-tower model out."""

from __future__ import annotations

import json
import logging
from typing import Any

import torch

from florence.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    GlooExchange,
    SingleProcess,
    begin_attempt,
    configuration_digest,
    read_final_model,
    write_final_model,
)
from florence.config import Pretrain
from florence.data.loader import TrainingLoader
from florence.data.shards import ShardSet
from florence.distributed.engine import Engine
from florence.distributed.engines import make_engine
from florence.distributed.objective import ContrastiveObjective
from florence.errors import ConfigurationError
from florence.models.compilation import compile_blocks
from florence.models.model_file import ModelCard, model_bytes, read_model
from florence.models.two_tower import TwoTower, build_model
from florence.models.window_resize import resize_windows
from florence.stages.context import StageContext, StageProgress
from florence.stages.trainer import Trainer
from florence.stages.trajectory import differences, trajectory

log = logging.getLogger(__name__)


def pretrain(context: StageContext, settings: Pretrain) -> None:
    """Train from the input model or afresh, from the newest commit if there is one.

    Leaves ``model/`` and ``metrics.json`` in the stage's artifacts.

    Raises:
        ConfigurationError: the settings differ from the checkpoint's, or do not fit the model.
        DataError: the data is missing or too much of it is unreadable.
        DivergedError, StoppedError, TryAgainError: see :class:`florence.stages.trainer.Trainer`.
    """
    context.report(StageProgress(phase="start", total=settings.steps))
    world = context.world
    exchange = GlooExchange() if world.size > 1 else SingleProcess()
    shards = ShardSet.for_pretraining(settings, context.s3)
    plan = trajectory(context.architecture, settings, shards.fingerprint)
    checkpoint = begin_attempt(
        context.output,
        attempt=context.attempt,
        on_skip=log.warning,
        exchange=exchange,
        clock=context.clock,
    )
    if checkpoint is not None:
        _refuse_other_settings(checkpoint, plan)
    model = starting_model(context, settings, fresh=checkpoint is None)
    engine = make_engine(
        settings.engine, model, settings, ContrastiveObjective(settings.loss), world
    )
    _describe(context, settings, shards, engine)
    writer = CheckpointWriter(
        context.output,
        attempt=context.attempt,
        world=world,
        exchange=exchange,
        clock=context.clock,
        keep=settings.checkpoints.keep,
    )
    metadata = {
        "trajectory": plan,
        "digest": configuration_digest(plan),
        "engine": engine.name,
        **context.facts,
    }
    trainer = Trainer(context, settings, engine, writer, metadata)
    start = trainer.restore(checkpoint)
    with TrainingLoader(
        shards,
        settings,
        rank=world.rank,
        world_size=world.size,
        start_step=start,
        context=context.architecture.text.context,
        device=engine.device,
    ) as loader:
        trainer.run(iter(loader), start)
    trainer.tell(phase="export")
    _export(context, settings, engine)


def starting_model(context: StageContext, settings: Pretrain, *, fresh: bool) -> TwoTower:
    """The model before the first step: the input stage's, or a new one from the seed.

    Args:
        fresh: whether the weights matter; a checkpoint replaces them otherwise.
    """
    model = build_model(
        context.architecture,
        seed=settings.seed,
        window=settings.window,
        checkpointing=settings.activation_checkpointing,
        drop_path=settings.drop_path,
        temperature=settings.loss.temperature,
    )
    if context.input_model is not None and fresh:
        stored = read_final_model(context.input_model)
        source, card = read_model(stored.read, source=stored.uri)
        if card.architecture != context.architecture:
            raise ConfigurationError(f"spec.model: {stored.uri} is a model of another architecture")
        model.load_state_dict(resize_windows(source.state_dict(), model))
    if settings.compile:
        compile_blocks(model)
    return model


def _refuse_other_settings(checkpoint: Checkpoint, plan: dict[str, Any]) -> None:
    changed = differences(checkpoint.metadata["trajectory"], plan)
    if changed:
        raise ConfigurationError(
            f"{checkpoint.uri} was trained with other settings ({'; '.join(changed)}): "
            "put them back, or give the job another name"
        )


def _describe(context: StageContext, settings: Pretrain, shards: ShardSet, engine: Engine) -> None:
    """Record what is trained on what."""
    log.info("Training on %d samples of %s with engine %s", len(shards), settings.data, engine.name)
    if not context.world.is_first:
        return
    context.recorder.parameters(
        {"model": context.architecture.wire(), "stage": settings.wire(), "engine": engine.name}
    )
    context.recorder.dataset(settings.data, shards.fingerprint, len(shards), "train")


def _export(context: StageContext, settings: Pretrain, engine: Engine) -> None:
    """Write the final model and the stage's results; collective."""
    state = engine.model_state()
    if not context.world.is_first:
        return
    card = ModelCard(
        architecture=context.architecture,
        window=settings.window or context.architecture.image.window,
        resolution=settings.resolution,
        mean=settings.augmentation.mean,
        std=settings.augmentation.std,
        trained={
            **context.facts,
            "steps": settings.steps,
            "samples": settings.steps * settings.batch_size,
        },
    )
    files = model_bytes(state, card)
    write_final_model(context.output, files, attempt=context.attempt)
    uri = context.output.url("model")
    context.recorder.model(files, uri)
    scale = float(torch.exp(state["logit_scale"]))
    metrics = {"steps": float(settings.steps), "logitScale": scale}
    document = {"metrics": metrics, "mlflowRun": context.recorder.run_id}
    context.output.write("metrics.json", json.dumps(document, indent=1).encode())

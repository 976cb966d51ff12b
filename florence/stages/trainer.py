"""The training loop: one for every stage that trains."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from florence.checkpoint import Checkpoint, CheckpointWriter
from florence.config import Pretrain
from florence.data.batch import Batch
from florence.distributed.engine import Engine, StepResult
from florence.distributed.schedule import learning_rate
from florence.errors import DivergedError, StoppedError
from florence.stages.context import StageContext, StageProgress
from florence.stages.meter import Meter
from florence.stages.randomness import rank_state, restore_rank_state, seed_rank

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """What happened so far; kept in every checkpoint."""

    skipped: int = 0
    """Steps whose loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    bad_samples: int = 0
    """Samples of this rank that could not be read and were replaced."""


class Trainer:
    """Drives an engine over a stream of batches, with checkpoints, metrics and clean stops.

    Args:
        metadata: goes into every checkpoint; tells what it was made with.
    """

    def __init__(
        self,
        context: StageContext,
        settings: Pretrain,
        engine: Engine,
        writer: CheckpointWriter,
        metadata: dict[str, Any],
    ) -> None:
        self._context = context
        self._settings = settings
        self._engine = engine
        self._writer = writer
        self._metadata = metadata
        self._meter = Meter(context.clock)
        self._counts = Counts()
        self._progress = StageProgress(phase="start", total=settings.steps)
        self._saving: int | None = None

    def restore(self, checkpoint: Checkpoint | None) -> int:
        """Put the engine where a checkpoint left it and return the step to go on from.

        Without a checkpoint only the random state is set.
        """
        world, seed = self._context.world, self._settings.seed
        if checkpoint is None:
            seed_rank(seed, world.rank, 0)
            return 0
        self.tell(phase="restore", step=checkpoint.step)
        self._engine.restore(checkpoint)
        self._engine.restore_counters(checkpoint.metadata["counters"])
        self._counts = Counts(**checkpoint.metadata["counts"])
        state = checkpoint.rank_state(world.rank)
        if state is not None and checkpoint.metadata["worldSize"] == world.size:
            restore_rank_state(state, self._engine.device)
        else:
            seed_rank(seed, world.rank, checkpoint.step)
        self.tell(
            checkpoint=checkpoint.uri,
            checkpoint_step=checkpoint.step,
            restored_step=checkpoint.step,
        )
        log.info("Restored step %d from %s", checkpoint.step, checkpoint.uri)
        return checkpoint.step

    def run(self, batches: Iterator[Batch], start: int) -> None:
        """Train from step ``start`` to the last one; the last step is committed on return.

        Raises:
            DivergedError: too many steps in a row were not finite.
            StoppedError: a stop was requested; a checkpoint was committed.
            TryAgainError: a checkpoint could not be written.
        """
        steps = self._settings.steps
        self.tell(phase="train", step=start, samples=start * self._settings.batch_size)
        for step in range(start, steps):
            batch = next(batches)
            rate = learning_rate(step, steps, self._settings.optimizer)
            result = self._engine.step(batch.to(self._engine.device), lr=rate)
            done = step + 1
            self._meter.step(done)
            self._count(batch, result, step)
            if done % self._settings.log_every_steps == 0 or done in (start + 1, steps):
                self._record(done, result, rate)
            stopping = self._stop_requested()
            if done % self._settings.checkpoints.every_steps == 0 or done == steps or stopping:
                self._save(done)
            if stopping and done < steps:
                self._commit()
                raise StoppedError(
                    f"stopped on request after step {done}; its checkpoint is committed"
                )
            self._note_commit()
        self._commit()

    def _count(self, batch: Batch, result: StepResult, step: int) -> None:
        self._counts.bad_samples += batch.bad
        if not result.skipped:
            self._counts.skipped_in_a_row = 0
            return
        self._counts.skipped += 1
        self._counts.skipped_in_a_row += 1
        log.warning("Skipped step %d: its loss or gradient was not finite", step + 1)
        if self._counts.skipped_in_a_row > self._settings.nan_budget:
            raise DivergedError(
                f"step {step + 1}: loss or gradient not finite "
                f"{self._counts.skipped_in_a_row} times in "
                f"a row (nanBudget {self._settings.nan_budget}): lower optimizer.lr or use "
                "precision bf16"
            )

    def _record(self, step: int, result: StepResult, rate: float) -> None:
        if not self._context.world.is_first:
            return
        samples = step * self._settings.batch_size
        per_second = self._meter.steps_per_second
        samples_per_second = per_second * self._settings.batch_size if per_second else None
        loss = result.loss if math.isfinite(result.loss) else None
        self.tell(
            step=step,
            samples=samples,
            loss=loss,
            samples_per_second=samples_per_second,
            eta_seconds=self._meter.seconds_left(self._settings.steps),
        )
        metrics = {
            "train/loss": result.loss,
            "train/gradient_norm": result.grad_norm,
            "train/learning_rate": rate,
            "train/logit_scale": result.scale,
            "train/samples": float(samples),
            "train/skipped_steps": float(self._counts.skipped),
            "train/bad_samples": float(self._counts.bad_samples),
            "train/attempt": float(self._context.attempt),
        }
        if samples_per_second:
            metrics["train/samples_per_second"] = samples_per_second
        self._context.recorder.metrics(step, metrics)
        log.info("Step %d/%d loss %.4f lr %.3g", step, self._settings.steps, result.loss, rate)

    def _save(self, step: int) -> None:
        self._commit()
        self.tell(phase="checkpoint")
        metadata = {
            **self._metadata,
            "step": step,
            "position": step * self._settings.batch_size,
            "worldSize": self._context.world.size,
            "counters": self._engine.counters(),
            "counts": asdict(self._counts),
        }
        self._writer.save(step, self._engine.fragments(), rank_state(self._engine.device), metadata)
        self._saving = step
        self._meter.pause()
        self.tell(phase="train", step=step)

    def _note_commit(self) -> None:
        """Tell about a checkpoint whose commit was written meanwhile."""
        if self._saving is not None and not self._writer.in_flight:
            self._commit()

    def _commit(self) -> None:
        """Wait for the checkpoint in flight, if there is one."""
        if self._saving is None:
            return
        commit = self._writer.wait()
        step, self._saving = self._saving, None
        if commit is None or not self._context.world.is_first:
            return
        uri = self._context.output.url(commit.prefix)
        self.tell(checkpoint=uri, checkpoint_step=step)
        self._context.recorder.checkpoint(uri, step, {})

    def _stop_requested(self) -> bool:
        """Whether any rank was asked to stop; all ranks answer alike."""
        world, requested = self._context.world, self._context.stop.requested
        if world.size == 1:
            return requested
        flag = torch.tensor([float(requested)], device=self._engine.device)
        return bool(world.all_reduce_mean(flag).item() > 0)

    def tell(self, **changes: Any) -> None:
        """Report what changed about the progress; everything else stays as it was told."""

        self._progress = replace(self._progress, **changes)
        if self._context.world.is_first:
            self._context.report(self._progress)

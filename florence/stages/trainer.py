"""The training loop: one for every stage that trains."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from florence.checkpoint import Checkpoint, CheckpointWriter, Commit, Saves, State
from florence.config import Training
from florence.config.progress import StageProgress
from florence.data.bad_samples import BadSampleCounter
from florence.data.batch import Batch
from florence.distributed.engine import Engine, StepResult
from florence.distributed.schedule import Plateau, learning_rate
from florence.errors import DivergedError, StoppedError
from florence.stages.best import Best
from florence.stages.context import StageContext
from florence.stages.meter import ThroughputMeter, most_memory
from florence.stages.phase_clock import PhaseClock
from florence.stages.randomness import rank_state, restore_rank_state, seed_rank
from florence.stages.step_metrics import StepMetrics

log = logging.getLogger(__name__)

Evaluate = Callable[[int, Callable[[int, int], None]], Mapping[str, float]]
"""Measures the model after a step on held-out data and tells how far it is; collective."""


@dataclass(slots=True)
class TrainState:
    """What happened so far; kept in every checkpoint."""

    skipped: int = 0
    """Steps whose loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    seen_samples: int = 0
    bad_samples: int = 0
    """Samples of all ranks that could not be read and were replaced."""
    evaluated_step: int = 0
    """The last step that was evaluated."""


class Trainer:
    """Drives an engine over a stream of batches, with checkpoints, metrics and clean stops.

    Args:
        steps: optimizer steps of the whole stage.
        samples: of the data, in one epoch.
        writer: writes checkpoints.
        bad_samples: counts samples that could not be read.
        step_metrics: what is recorded about a step.
        metadata: goes into every checkpoint; tells what it was made with.
        evaluate: measures on held-out data every ``evaluateEverySteps``.
        phases: adds up what the time goes into; it was made when the stage began.
    """

    def __init__(
        self,
        context: StageContext,
        settings: Training,
        engine: Engine,
        *,
        steps: int,
        samples: int,
        writer: CheckpointWriter,
        bad_samples: BadSampleCounter,
        step_metrics: StepMetrics,
        metadata: Mapping[str, Any],
        evaluate: Evaluate | None = None,
        phases: PhaseClock | None = None,
    ) -> None:
        self._context = context
        self._settings = settings
        self._engine = engine
        self._steps = steps
        self._samples = samples
        self._writer = writer
        self._saves = Saves(
            writer, limit=settings.checkpoints.max_failed_saves, on_commit=self._note_commit
        )
        self._bad_samples = bad_samples
        self._step_metrics = step_metrics
        self._metadata = metadata
        self._evaluate = evaluate
        self._meter = ThroughputMeter(context.clock)
        self._phases = phases or PhaseClock(context.clock)
        self._state = TrainState()
        self._plateau = Plateau()
        self._best = Best()
        self._progress = StageProgress(phase="start", total=steps)

    def restore(self, checkpoint: Checkpoint | None) -> int:
        """Put the engine where a checkpoint left it and return the step to go on from.

        Without a checkpoint only the random state is set.
        """
        world, seed = self._context.world, self._settings.seed
        if checkpoint is None:
            seed_rank(seed, world.rank, 0)
            return 0
        self.tell(phase="restore", step=checkpoint.step)
        self._engine.restore(checkpoint, self.tell_part)
        metadata = checkpoint.metadata
        self._engine.restore_counters(metadata["counters"])
        self._state = TrainState(**metadata["state"])
        self._plateau = Plateau(**metadata["plateau"])
        self._best = Best(**metadata["best"])
        self._writer.spare = self._best.step if self._settings.keep_best else None
        self._bad_samples.seen = self._state.seen_samples
        self._bad_samples.bad = self._state.bad_samples
        state = checkpoint.rank_state(world.rank)
        if state is not None and metadata["worldSize"] == world.size:
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

    @property
    def best(self) -> Best:
        """The best evaluation on the way."""
        return self._best

    def run(self, batches: Iterator[Batch], start: int) -> int:
        """Train from step ``start`` to the last one, which is committed on return.

        Returns:
            The last step: fewer than all where evaluations no longer improve (``earlyStop``).

        Raises:
            DataError: too many samples are broken.
            DivergedError: too many steps in a row were not finite.
            StoppedError: a stop was requested; a checkpoint was committed.
            TransientError: too many checkpoints in a row could not be written.
        """
        self.tell(phase="train", step=start, samples=start * self._settings.batch_size)
        if self._stopped_while_evaluating(start):
            raise StoppedError(f"stopped on request after step {start}; it goes on from there")
        for step in range(start, self._steps):
            if self._ends_early():
                self.tell(total=step)
                log.info(
                    "Ended after step %d: the best evaluation is that of step %d",
                    step,
                    self._best.step,
                )
                return step
            batch = self._next(batches)
            rate = learning_rate(step, self._steps, self._settings.optimizer, self._plateau)
            result = self._engine.step(batch.to(self._engine.device), lr=rate)
            done = step + 1
            self._meter.step(done)
            self._note(done, result)
            self._check_finite(result, done)
            stopping = self._agree(batch)
            if done % self._settings.log_every_steps == 0 or done in (start + 1, self._steps):
                self._record(done, result, rate)
            stopping = stopping or self._stopped_while_evaluating(done)
            last = done == self._steps or self._ends_early()
            must_hold = last or stopping or self._writer.spare == done
            if must_hold or self._is_save_due(done):
                self._save(done, must_hold=must_hold)
            if stopping and not last:
                raise StoppedError(
                    f"stopped on request after step {done}; its checkpoint is committed"
                )
            self._saves.look()
        return self._steps

    def _ends_early(self) -> bool:
        limit = self._settings.early_stop
        return limit is not None and self._best.waited >= limit

    def _next(self, batches: Iterator[Batch]) -> Batch:
        asked = self._meter.now()
        batch = next(batches)
        waited = self._meter.now() - asked
        self._meter.wait(waited)
        self._phases.waited(waited)
        return batch

    def _note(self, done: int, result: StepResult) -> None:
        """Tell about every step: whoever watches for a stall sees steps, not log lines."""
        per_second = self._meter.steps_per_second
        self.tell(
            step=done,
            samples=done * self._settings.batch_size,
            loss=result.loss if math.isfinite(result.loss) else None,
            samples_per_second=per_second * self._settings.batch_size if per_second else None,
            epoch=done * self._settings.batch_size / self._samples,
            data_wait=self._meter.wait_fraction,
            memory_bytes=most_memory(self._engine.device),
            eta_seconds=self._meter.seconds_left(self._steps),
        )

    def _check_finite(self, result: StepResult, done: int) -> None:
        if not result.skipped:
            self._state.skipped_in_a_row = 0
            return
        self._state.skipped += 1
        self._state.skipped_in_a_row += 1
        log.warning("Skipped step %d: its loss or gradient was not finite", done)
        if self._state.skipped_in_a_row > self._settings.nan_budget:
            raise DivergedError(
                f"step {done}: loss or gradient not finite "
                f"{self._state.skipped_in_a_row} times in "
                f"a row (nanBudget {self._settings.nan_budget}): lower optimizer.lr or use "
                "precision bf16"
            )

    def _agree(self, batch: Batch) -> bool:
        """Count samples over all ranks; whether any rank was asked to stop. All answer alike."""
        world, counter = self._context.world, self._bad_samples
        mine = [float(self._context.stop.requested), float(len(batch)), float(len(batch.broken))]
        counter.note(batch.broken)
        if world.size > 1:
            mine = world.all_reduce_sum(torch.tensor(mine, device=self._engine.device)).tolist()
        stopping, seen, bad = mine
        too_many = counter.add(round(seen), round(bad))
        self._state.seen_samples, self._state.bad_samples = counter.seen, counter.bad
        if too_many:
            raise counter.error(world.all_gather_object(counter.worst()))
        return stopping > 0

    def _record(self, done: int, result: StepResult, rate: float) -> None:
        metrics = self._step_metrics.of(done, result, rate, self._meter, self._state, self._phases)
        # On every rank: those of other nodes record how busy these are at which step.
        self._context.recorder.metrics(done, metrics)
        if not self._context.world.is_first:
            return
        log.info("Step %d/%d loss %.4f lr %.3g", done, self._steps, result.loss, rate)

    def _stopped_while_evaluating(self, done: int) -> bool:
        """Evaluate if it is due after a step; whether a stop was requested before it was done.

        It is also due where the attempt before was stopped. The last step's evaluation is the
        stage's own business, after the last checkpoint.
        """
        every = self._settings.evaluate_every_steps
        due = every is not None and done and done % every == 0 and done < self._steps
        if not due or self._evaluate is None or self._state.evaluated_step >= done:
            return False
        try:
            metrics = self.evaluate(done)
        except StoppedError as stopped:
            log.info("%s", stopped)
            return True
        self._state.evaluated_step = done
        optimizer = self._settings.optimizer
        improved = self._best.note(next(iter(metrics.values()), math.nan), done)
        if improved:
            self.tell(best_metric=next(iter(metrics)), best_value=self._best.value, best_step=done)
        if improved and self._settings.keep_best:
            self._writer.spare = done
        if self._plateau.note(improved, optimizer.patience):
            log.info("Step %d: no better evaluation for %d in a row", done, optimizer.patience)
        self._meter.pause()
        self.tell(phase="train")
        return False

    def evaluate(self, done: int) -> Mapping[str, float]:
        """Measure after a step; nothing where there is nothing to measure."""
        if self._evaluate is None:
            return {}
        self.tell(phase="evaluate")
        return self._evaluate(done, self.tell_part)

    def _is_save_due(self, done: int) -> bool:
        return done % self._settings.checkpoints.every_steps == 0

    def _save(self, done: int, *, must_hold: bool) -> None:
        """Save after a step: in the background, or committed on return where it must hold."""
        self.tell(phase="checkpoint")
        self._phases.saving(done)
        if must_hold:
            self._saves.finish(done, lambda: self._state_after(done))
        else:
            self._saves.start(done, lambda: self._state_after(done))
        self._meter.pause()
        self.tell(phase="train")

    def _state_after(self, done: int) -> State:
        metadata = {
            **self._metadata,
            "step": done,
            "position": done * self._settings.batch_size,
            "worldSize": self._context.world.size,
            "counters": self._engine.counters(),
            "state": asdict(self._state),
            "plateau": asdict(self._plateau),
            "best": asdict(self._best),
        }
        return State(self._engine.fragments(), rank_state(self._engine.device), metadata)

    def _note_commit(self, commit: Commit) -> None:
        """Tell about a checkpoint that was committed."""
        self._phases.committed(commit.step)
        if self._context.world.is_first:
            uri = self._context.output.url(commit.prefix)
            self.tell(checkpoint=uri, checkpoint_step=commit.step)
            self._context.recorder.checkpoint(uri, commit.step, {})

    def tell_part(self, done: int, total: int) -> None:
        """Report how much of a phase is done that is no training."""
        self.tell(phase_fraction=done / total if total else 1.0)

    def tell(self, **changes: Any) -> None:
        """Report what changed about the progress; everything else stays as it was told."""
        if "phase" in changes:
            changes.setdefault("phase_fraction", None)
            self._phases.enter(changes["phase"])
        changes["seconds"] = self._phases.read()
        self._progress = self._progress.model_copy(update=changes)
        if self._context.world.is_first:
            self._context.report(self._progress)

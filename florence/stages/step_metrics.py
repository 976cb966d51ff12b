"""What is recorded about a training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from florence.config import Architecture, Training
from florence.distributed.engine import StepResult
from florence.distributed.world import World
from florence.errors import ConfigurationError
from florence.planner import Cost, gpu_named
from florence.planner.estimate import executed_over_useful
from florence.stages.meter import ThroughputMeter
from florence.stages.phase_clock import PhaseClock

if TYPE_CHECKING:
    from florence.stages.trainer import TrainState


@dataclass(frozen=True, kw_only=True)
class Utilisation:
    """What turns samples per second into the fraction of the GPUs' peak that they use.

    Attributes:
        flops_per_sample: useful FLOPs of a sample, by the planner's count.
        executed_over_useful: recomputed ones included.
        peak: FLOP/s of all GPUs together.
    """

    flops_per_sample: float
    executed_over_useful: float
    peak: float

    def metrics(self, samples_per_second: float) -> dict[str, float]:
        """Model and hardware FLOPs utilisation, fractions of 1."""
        mfu = samples_per_second * self.flops_per_sample / self.peak
        return {"mfu": mfu, "hfu": mfu * self.executed_over_useful}


def utilisation(
    architecture: Architecture, settings: Training, cost: Cost | None, world: World
) -> Utilisation | None:
    """Of a stage on this machine's GPUs; ``None`` on CPUs and on GPUs of unknown peak."""
    if cost is None or world.device.type != "cuda":
        return None
    try:
        gpu = gpu_named(torch.cuda.get_device_name(world.device).replace(" ", "-"))
    except ConfigurationError:
        return None
    return Utilisation(
        flops_per_sample=cost.training_flops(architecture, settings).total,
        executed_over_useful=executed_over_useful(architecture, settings, cost),
        peak=gpu.peak(settings.precision) * world.size,
    )


class StepMetrics:
    """Collects the metrics of a step from whoever knows them.

    Args:
        utilisation: for MFU and HFU; ``None`` leaves them out.
    """

    def __init__(self, settings: Training, world: World, utilisation: Utilisation | None) -> None:
        self._settings = settings
        self._world = world
        self._utilisation = utilisation

    def of(
        self,
        done: int,
        result: StepResult,
        rate: float,
        meter: ThroughputMeter,
        state: TrainState,
        phases: PhaseClock,
    ) -> dict[str, float]:
        """Metrics after ``done`` steps. Collective: the objective's are averaged over ranks.

        ``gradient_norm`` is that before clipping. MLflow's pages group by prefix: ``train/`` and
        ``validation/`` come first, then names without one, and ``system/`` last.
        """
        metrics = {
            "train/loss": result.loss,
            "gradient_norm": result.grad_norm,
            "learning_rate": rate,
            **self._of_objective(result),
            "samples": float(done * self._settings.batch_size),
            "system/skipped_steps": float(state.skipped),
            "system/bad_samples": float(state.bad_samples),
            **_of_time(phases),
        }
        if meter.steps_per_second:
            samples_per_second = meter.steps_per_second * self._settings.batch_size
            metrics["train/samples_per_second"] = samples_per_second
            metrics["system/data_wait_fraction"] = meter.wait_fraction or 0.0
            if self._utilisation:
                metrics |= self._utilisation.metrics(samples_per_second)
        return metrics

    def _of_objective(self, result: StepResult) -> dict[str, float]:
        if not result.metrics:
            return {}
        values = torch.stack([value.float().reshape(()) for value in result.metrics.values()])
        means = self._world.all_reduce_mean(values).tolist()
        return dict(zip(result.metrics, means, strict=True))


def _of_time(phases: PhaseClock) -> dict[str, float]:
    """What this attempt's time went into so far; the operator's status has all attempts'."""
    seconds = phases.read()
    return {
        "system/goodput": phases.goodput,
        "system/train_seconds": seconds.train,
        "system/data_wait_seconds": seconds.data_wait,
        "system/checkpoint_seconds": seconds.checkpoint,
        "system/evaluate_seconds": seconds.evaluate,
    }

"""What is recorded about a step, from the step's result, the clock and the planner's counts."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from florence.config import ActivationCheckpointing, Precision, architecture_of
from florence.distributed.engine import StepResult
from florence.distributed.world import World, join
from florence.planner import gpu_named
from florence.stages.meter import ThroughputMeter
from florence.stages.phase_clock import PhaseClock
from florence.stages.step_metrics import StepMetrics, Utilisation, utilisation
from florence.tasks.pretrain.cost import PretrainCost
from florence.tasks.pretrain.settings import Pretrain
from tests.gang import run_gang

ARCHITECTURE = architecture_of("coswin-nano")


def settings(**changes: Any) -> Pretrain:
    return Pretrain(**({"data": "none", "batch_size": 8, "steps": 100} | changes))


class State:
    """The part of the trainer's state that is recorded."""

    skipped = 2
    bad_samples = 5


def result(**metrics: float) -> StepResult:
    return StepResult(
        loss=3.0,
        grad_norm=7.5,
        skipped=False,
        metrics={name: torch.tensor(value) for name, value in metrics.items()},
    )


def metered(seconds: float, waited: float) -> ThroughputMeter:
    """A meter of two steps that took ``seconds`` each, of which they waited."""
    times = iter([0.0, seconds])
    meter = ThroughputMeter(lambda: next(times))
    meter.step(1)
    meter.wait(waited)
    meter.step(2)
    return meter


def phases() -> PhaseClock:
    """Of a stage that started for 2 s, and trained for 8 s of which it waited 3 s."""
    times = iter([0.0, 2.0, *[10.0] * 9])
    clock = PhaseClock(lambda: next(times))
    clock.enter("train")
    clock.waited(3.0)
    return clock


def of(
    meter: ThroughputMeter,
    told: StepResult,
    use: Utilisation | None = None,
    world: World | None = None,
) -> dict[str, float]:
    recorded = StepMetrics(settings(), world or World(), use)
    return recorded.of(10, told, 0.01, meter, cast(Any, State()), phases())


def test_before_a_rate_is_known_everything_else_is_told() -> None:
    fresh = ThroughputMeter(lambda: 0.0)
    assert of(fresh, result(logit_scale=14.0, loss_sum=72.0)) == {
        "train/loss": 3.0,
        "gradient_norm": 7.5,
        "learning_rate": 0.01,
        "logit_scale": 14.0,
        "loss_sum": 72.0,
        "samples": 80.0,
        "system/skipped_steps": 2.0,
        "system/bad_samples": 5.0,
        "system/goodput": 0.5,
        "system/train_seconds": 5.0,
        "system/data_wait_seconds": 3.0,
        "system/checkpoint_seconds": 0.0,
        "system/evaluate_seconds": 0.0,
    }


def test_an_objective_may_tell_nothing() -> None:
    assert not any("logit" in name for name in of(ThroughputMeter(lambda: 0.0), result()))


def test_rates_and_utilisation_follow_from_the_clock() -> None:
    use = Utilisation(flops_per_sample=1e9, executed_over_useful=1.25, peak=64e9)
    metrics = of(metered(0.5, 0.1), result(), use)
    assert metrics["train/samples_per_second"] == pytest.approx(16.0)
    assert metrics["system/data_wait_fraction"] == pytest.approx(0.2)
    assert metrics["mfu"] == pytest.approx(0.25)
    assert metrics["hfu"] == pytest.approx(0.25 * 1.25)
    assert "mfu" not in of(metered(0.5, 0.1), result())


def test_every_metric_is_a_plain_number() -> None:
    metrics = of(metered(0.5, 0.1), result(logit_scale=14.0))
    assert all(type(value) is float for value in metrics.values())


def test_a_cpu_has_no_peak_to_compare_with() -> None:
    assert utilisation(ARCHITECTURE, settings(), PretrainCost(), World()) is None


def test_peaks_are_those_of_all_gpus_in_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-40GB")
    world = World(size=4, device=torch.device("cuda", 0))
    half = settings(precision=Precision.BF16)
    use = utilisation(ARCHITECTURE, half, PretrainCost(), world)
    assert use is not None
    assert use.peak == 4 * gpu_named("A100-40GB").half
    assert use.flops_per_sample == PretrainCost().training_flops(ARCHITECTURE, half).total
    assert use.executed_over_useful == 1.0
    recomputing = settings(activation_checkpointing=ActivationCheckpointing.FULL)
    more = utilisation(ARCHITECTURE, recomputing, PretrainCost(), world)
    assert more is not None
    assert more.peak == 4 * gpu_named("A100-40GB").single
    # At most one forward pass more, of three forward passes' worth.
    again = PretrainCost().recomputed_macs(ARCHITECTURE, recomputing)
    assert more.executed_over_useful == 1 + 2 * again / more.flops_per_sample
    assert 1.1 < more.executed_over_useful < 4 / 3
    assert utilisation(ARCHITECTURE, half, None, world) is None


def test_a_gpu_of_unknown_peak_has_no_utilisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce GTX 970")
    world = World(device=torch.device("cuda", 0))
    assert utilisation(ARCHITECTURE, settings(), PretrainCost(), world) is None


def _ranks() -> dict[str, float]:
    world = join(60.0)
    told = result(logit_scale=14.0, positives_per_row=1.0 + world.rank)
    return of(ThroughputMeter(lambda: 0.0), told, world=world)


def test_what_an_objective_tells_is_averaged_over_ranks() -> None:
    for metrics in run_gang(_ranks, 3):
        assert metrics["positives_per_row"] == 2.0
        assert metrics["logit_scale"] == 14.0

"""The paper's own figures follow from its model and schedule."""

from __future__ import annotations

import pytest

from florence.config import PRESETS, Precision
from florence.errors import ConfigurationError
from florence.planner import (
    GPUS,
    StageRequest,
    days_for,
    estimate_job,
    forward_macs,
    gpu_named,
    implied_mfu,
)
from florence.tasks.pretrain.cost import PretrainCost
from florence.tasks.pretrain.settings import Pretrain

COST = PretrainCost()
H = PRESETS["coswin-h"]
PAPER = (("mixed", 1_000_000, 224, None), ("clean", 180_000, 224, None), ("sharp", 80_000, 384, 12))


def paper_stages(**changes: object) -> list[StageRequest]:
    """The schedule of the paper on 512 A100-40GB."""
    stages = []
    for name, steps, resolution, window in PAPER:
        settings = Pretrain.model_validate(
            {
                "data": "x",
                "batch_size": 24_576,
                "steps": steps,
                "resolution": resolution,
                "window": window,
                "precision": "fp16",
            }
            | changes
        )
        stages.append(
            StageRequest(
                name=name, settings=settings, cost=COST, processes=512, gpu=GPUS["A100-40GB"]
            )
        )
    return stages


def test_ten_days_imply_15_3_percent_and_70_images_per_second() -> None:
    estimate = estimate_job(H, paper_stages(), days=10)
    assert estimate.days == 10
    assert estimate.samples_per_second == pytest.approx(35_840, rel=1e-4)
    assert estimate.samples_per_second / 512 == pytest.approx(70.0, abs=0.05)
    assert [s.pace.mfu for s in estimate.stages if s.pace] == pytest.approx([0.153] * 3, abs=5e-4)
    assert estimate.gpu_hours == pytest.approx(512 * 240)
    first, second, third = (s.pace for s in estimate.stages)
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.days + second.days == pytest.approx(8.46, abs=0.01)
    assert third.days == pytest.approx(1.54, abs=0.01)
    assert first.step_seconds == pytest.approx(0.619, abs=0.001)
    assert third.step_seconds == pytest.approx(1.67, abs=0.01)


def test_implied_mfu_from_total_flops() -> None:
    flops = estimate_job(H, paper_stages()).flops
    assert flops == pytest.approx(2.118e22, rel=1e-3)
    assert implied_mfu(flops, gpus=512, peak=312e12, days=10) == pytest.approx(0.153, abs=5e-4)
    assert days_for(flops, gpus=512, peak=312e12, mfu=0.153) == pytest.approx(10, abs=0.05)


def test_macs_of_h_are_those_of_the_science_notes() -> None:
    for resolution, window, giga in ((224, 7, 87.51), (384, 12, 261.55), (512, 16, 474.14)):
        macs = forward_macs(H, resolution=resolution, window=window)
        assert macs.image / 1e9 == pytest.approx(giga, abs=0.006)
        assert macs.text / 1e9 == pytest.approx(15.42, abs=0.006)


def test_papers_run_fits_its_gpus_at_224_only_with_sharding_or_less_at_384() -> None:
    first, _, third = estimate_job(H, paper_stages()).stages
    assert first.fits
    assert not third.fits
    assert third.recommendation is not None
    assert third.recommendation.total <= 40e9


def test_checkpointing_and_chunks_cost_time() -> None:
    def days(**changes: object) -> float:
        estimate = estimate_job(H, paper_stages(**changes), mfu=0.4)
        assert estimate.days is not None
        return estimate.days

    plain = days()
    # One more forward pass, but for the last product of every block.
    assert days(activation_checkpointing="full") / plain == pytest.approx(4 / 3, rel=0.09)
    assert days(activation_checkpointing="full") < plain * 4 / 3
    assert days(gradient_cache_chunks=4) / plain == pytest.approx(5 / 4)
    assert (
        plain < days(activation_checkpointing="selective") < days(activation_checkpointing="full")
    )


def test_processes_on_cpus_have_memory_but_no_time() -> None:
    settings = Pretrain(data="x", batch_size=8, steps=3, resolution=32)
    request = StageRequest(name="a", settings=settings, cost=COST, processes=2, gpu=None)
    estimate = estimate_job(PRESETS["coswin-nano"], [request])
    assert estimate.days is None
    assert estimate.stages[0].pace is None
    assert estimate.memory_per_gpu.total > 0
    with pytest.raises(ConfigurationError, match="days"):
        estimate_job(PRESETS["coswin-nano"], [request], days=1)


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("A100-40GB", "A100-40GB"),
        ("NVIDIA-A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA-A100-80GB-PCIe", "A100-80GB"),
        ("NVIDIA-H100-80GB-HBM3", "H100-80GB"),
        ("h100", "H100-80GB"),
        ("NVIDIA-H200", "H200"),
    ],
)
def test_products_are_known_by_their_node_label(product: str, name: str) -> None:
    assert gpu_named(product).name == name


def test_unknown_gpus_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"unknown GPU 'A100'.*A100-40GB"):
        gpu_named("A100")


def test_fp32_is_not_tensor_float() -> None:
    assert GPUS["A100-40GB"].peak(Precision.FP32) < GPUS["A100-40GB"].peak(Precision.BF16) / 10

"""What a training run needs and how long it takes, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from florence.config import Architecture, Training
from florence.config.base import Settings, setting
from florence.errors import ConfigurationError
from florence.planner.cost import Cost
from florence.planner.memory import (
    MemoryOption,
    MemoryPerGpu,
    memory_options,
    memory_per_gpu,
    recommend,
)
from florence.planner.sizes import TowerCounts
from florence.planner.speed import SECONDS_PER_DAY, Gpu, samples_per_second

DEFAULT_MFU = 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRequest:
    """A stage that trains and what it runs on; no ``gpu`` means processes on CPUs.

    ``samples`` is the size of the data set, which a stage with ``epochs`` needs.
    """

    name: str
    settings: Training
    cost: Cost
    processes: int
    gpu: Gpu | None
    samples: int | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage.

        Raises:
            ConfigurationError: it is planned in epochs and the data set's size is not known.
        """
        if self.settings.steps is None and self.samples is None:
            raise ConfigurationError(
                f"stage '{self.name}' trains for epochs of {self.settings.data}, whose number of "
                "samples is not known: give --samples, or index the data"
            )
        return self.settings.total_steps(self.samples or 0)


class Pace(Settings):
    """How fast a stage runs and how long it takes."""

    mfu: float = setting(description="useful FLOP/s over the GPUs' peak")
    samples_per_second: float = setting(description="on all GPUs")
    samples_per_second_per_gpu: float = setting(description="on one GPU")
    step_seconds: float = setting(description="one optimizer step", unit="seconds")
    days: float = setting(description="the whole stage", unit="days")
    gpu_hours: float = setting(description="the whole stage", unit="hours")


class StageEstimate(Settings):
    """What one stage needs and how long it takes."""

    name: str = setting(description="name of the stage")
    processes: int = setting(description="GPUs, or processes on CPUs")
    gpu: str | None = setting(None, description="kind of GPU")
    resolution: int = setting(description="side of the images", unit="pixels")
    batch_size: int = setting(description="samples of a step")
    batch_per_gpu: int = setting(description="samples of a step on each GPU")
    steps: int = setting(description="optimizer steps")
    samples: int = setting(description="samples of the whole stage")
    flops_per_sample: TowerCounts = setting(description="forward and backward, no recomputation")
    flops: float = setting(description="useful FLOPs of the whole stage")
    recompute: float = setting(description="executed FLOPs over useful ones")
    memory_per_gpu: MemoryPerGpu = setting(description="peak of one process", unit="bytes")
    capacity: int | None = setting(None, description="memory of the GPU", unit="bytes")
    fits: bool | None = setting(None, description="whether the memory suffices")
    options: tuple[MemoryOption, ...] = setting(description="memory under other settings")
    recommendation: MemoryOption | None = setting(
        None, description="the fastest settings that fit; absent when none do"
    )
    pace: Pace | None = setting(None, description="absent without GPUs")


class JobEstimate(Settings):
    """What a job needs and how long it takes: its stages one after the other."""

    parameters: TowerCounts = setting(description="trained parameters")
    flops_per_sample: TowerCounts = setting(description="mean over the job's samples")
    flops: float = setting(description="useful FLOPs of the whole job")
    memory_per_gpu: MemoryPerGpu = setting(description="of the stage that needs most")
    samples_per_second: float | None = setting(None, description="mean over the job")
    days: float | None = setting(None, description="all stages", unit="days")
    gpu_hours: float | None = setting(None, description="all stages", unit="hours")
    stages: tuple[StageEstimate, ...] = setting(description="the stages that train")


def estimate_job(
    architecture: Architecture,
    requests: Sequence[StageRequest],
    *,
    mfu: float = DEFAULT_MFU,
    days: float | None = None,
) -> JobEstimate:
    """Estimate stages that train one model.

    Args:
        architecture: the model.
        requests: at least one stage.
        mfu: fraction of the peak that executed FLOPs reach; recomputed ones count here, so a
            stage with checkpointing is as much slower as it computes more.
        days: how long all stages take; instead of ``mfu``, which is then implied.

    Raises:
        ConfigurationError: a batch does not divide over the processes, or days are given for CPUs.
    """
    stages = tuple(estimate_stage(architecture, request, mfu=mfu) for request in requests)
    total = _total_days(stages)
    if days is not None:
        if total is None:
            raise ConfigurationError("days can only be planned for GPUs: name their kind")
        implied = mfu * total / days
        stages = tuple(estimate_stage(architecture, request, mfu=implied) for request in requests)
        total = days
    samples = sum(stage.samples for stage in stages)
    return JobEstimate(
        parameters=requests[0].cost.parameters(architecture, requests[0].settings),
        flops_per_sample=_mean_flops(stages),
        flops=sum(stage.flops for stage in stages),
        memory_per_gpu=max((stage.memory_per_gpu for stage in stages), key=lambda m: m.total),
        samples_per_second=samples / (total * SECONDS_PER_DAY) if total else None,
        days=total,
        gpu_hours=sum(s.pace.gpu_hours for s in stages if s.pace) if total else None,
        stages=stages,
    )


def estimate_stage(
    architecture: Architecture, request: StageRequest, *, mfu: float = DEFAULT_MFU
) -> StageEstimate:
    """Estimate one stage; ``mfu`` as in :func:`estimate_job`."""
    settings, processes, gpu = request.settings, request.processes, request.gpu
    cost, cuda = request.cost, request.gpu is not None
    capacity = gpu.memory if gpu else None
    memory = memory_per_gpu(architecture, settings, cost=cost, processes=processes, cuda=cuda)
    flops = cost.training_flops(architecture, settings)
    samples = settings.batch_size * request.steps
    recompute = executed_over_useful(architecture, settings, cost)
    return StageEstimate(
        name=request.name,
        processes=processes,
        gpu=gpu.name if gpu else None,
        resolution=settings.resolution,
        batch_size=settings.batch_size,
        batch_per_gpu=settings.samples_per_process(processes),
        steps=request.steps,
        samples=samples,
        flops_per_sample=flops,
        flops=float(flops.total) * samples,
        recompute=recompute,
        memory_per_gpu=memory,
        capacity=capacity,
        fits=memory.total <= capacity if capacity else None,
        options=tuple(
            memory_options(
                architecture,
                settings,
                cost=cost,
                processes=processes,
                cuda=cuda,
                capacity=capacity,
            )
        ),
        recommendation=recommend(
            architecture, settings, cost=cost, processes=processes, capacity=capacity
        )
        if capacity
        else None,
        pace=_pace(request, flops.total, mfu / recompute) if gpu else None,
    )


def executed_over_useful(architecture: Architecture, settings: Training, cost: Cost) -> float:
    """How much more a step computes than without checkpointing and gradient cache."""
    useful = cost.training_flops(architecture, settings).total
    return 1 + 2 * cost.recomputed_macs(architecture, settings) / useful


def _pace(request: StageRequest, flops_per_sample: float, useful_mfu: float) -> Pace:
    assert request.gpu is not None
    settings, gpus = request.settings, request.processes
    rate = samples_per_second(
        flops_per_sample,
        gpus=gpus,
        peak=request.gpu.peak(settings.precision),
        mfu=useful_mfu,
    )
    days = settings.batch_size * request.steps / rate / SECONDS_PER_DAY
    return Pace(
        mfu=useful_mfu,
        samples_per_second=rate,
        samples_per_second_per_gpu=rate / gpus,
        step_seconds=settings.batch_size / rate,
        days=days,
        gpu_hours=days * 24 * gpus,
    )


def _total_days(stages: Sequence[StageEstimate]) -> float | None:
    """Days of all stages in a row; None when one of them runs on CPUs."""
    paces = [stage.pace for stage in stages]
    days = [pace.days for pace in paces if pace is not None]
    return sum(days) if len(days) == len(paces) else None


def _mean_flops(stages: Sequence[StageEstimate]) -> TowerCounts:
    samples = sum(stage.samples for stage in stages)
    image, text, head = (
        round(sum(getattr(s.flops_per_sample, part) * s.samples for s in stages) / samples)
        for part in ("image", "text", "head")
    )
    return TowerCounts(image=image, text=text, head=head, total=image + text + head)

"""Parameters, FLOPs, memory and days of a training run, from formulas alone; imports no torch."""

from florence.planner.cost import Cost, LossBytes
from florence.planner.estimate import (
    DEFAULT_MFU,
    JobEstimate,
    Pace,
    StageEstimate,
    StageRequest,
    estimate_job,
    estimate_stage,
)
from florence.planner.memory import MemoryOption, MemoryPerGpu, memory_per_gpu, recommend
from florence.planner.sizes import TowerCounts, forward_macs, parameters, training_flops
from florence.planner.speed import (
    GPUS,
    Gpu,
    days_for,
    gpu_named,
    implied_mfu,
    samples_per_second,
)

__all__ = [
    "DEFAULT_MFU",
    "GPUS",
    "Cost",
    "Gpu",
    "JobEstimate",
    "LossBytes",
    "MemoryOption",
    "MemoryPerGpu",
    "Pace",
    "StageEstimate",
    "StageRequest",
    "TowerCounts",
    "days_for",
    "estimate_job",
    "estimate_stage",
    "forward_macs",
    "gpu_named",
    "implied_mfu",
    "memory_per_gpu",
    "parameters",
    "recommend",
    "samples_per_second",
    "training_flops",
]

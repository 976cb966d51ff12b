"""How fast GPUs are, and how long a training run takes on them at a given utilisation."""

from __future__ import annotations

from dataclasses import dataclass

from florence.config import Precision
from florence.errors import ConfigurationError

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU: bytes of memory as sold, and peak dense FLOP/s of matrix products."""

    name: str
    memory: int
    half: float
    single: float

    def peak(self, precision: Precision) -> float:
        """Peak FLOP/s in a precision; fp32 is fp32, not TF32, as torch computes it by default."""
        return self.single if precision is Precision.FP32 else self.half


# Sources: NVIDIA's data sheets of the SXM boards, without sparsity.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="A100-40GB", memory=40_000_000_000, half=312e12, single=19.5e12),
        Gpu(name="A100-80GB", memory=80_000_000_000, half=312e12, single=19.5e12),
        Gpu(name="H100-80GB", memory=80_000_000_000, half=989.4e12, single=66.9e12),
        Gpu(name="H200", memory=141_000_000_000, half=989.4e12, single=66.9e12),
        Gpu(name="L40S", memory=48_000_000_000, half=362e12, single=91.6e12),
    )
}


def gpu_named(product: str) -> Gpu:
    """The GPU of a name such as ``A100-40GB``, or of a node's label ``nvidia.com/gpu.product``.

    Raises:
        ConfigurationError: the product is not known.
    """
    words = set(product.upper().split("-"))
    for gpu in GPUS.values():
        if words.issuperset(gpu.name.upper().split("-")):
            return gpu
    if "H100" in words:
        return GPUS["H100-80GB"]
    raise ConfigurationError(f"unknown GPU '{product}': use one of {', '.join(GPUS)}")


def samples_per_second(flops_per_sample: float, *, gpus: int, peak: float, mfu: float) -> float:
    """Samples that all GPUs together train on in a second.

    Args:
        flops_per_sample: forward and backward FLOPs of a sample, recomputation not counted.
        gpus: how many GPUs work.
        peak: peak FLOP/s of one.
        mfu: model FLOPs utilisation, the fraction of the peak that does useful work, in (0, 1].
    """
    return gpus * peak * mfu / flops_per_sample


def days_for(flops: float, *, gpus: int, peak: float, mfu: float) -> float:
    """Days that ``flops`` useful FLOPs take."""
    return flops / (gpus * peak * mfu) / SECONDS_PER_DAY


def implied_mfu(flops: float, *, gpus: int, peak: float, days: float) -> float:
    """The utilisation at which ``flops`` useful FLOPs take ``days``."""
    return flops / (gpus * peak * days * SECONDS_PER_DAY)

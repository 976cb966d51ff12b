"""Memory of a GPU in one training step: what each part takes, by ZeRO stage and checkpointing."""

from __future__ import annotations

import math
from collections.abc import Iterator

from florence.config import ActivationCheckpointing, Architecture, EngineKind, Training
from florence.config.base import Settings, setting
from florence.planner.activations import FP32
from florence.planner.cost import Cost

# CUDA context, NCCL buffers and library workspaces; a process of torch without them.
CUDA_CONTEXT = 1.5e9
CPU_CONTEXT = 0.5e9
# What the caching allocator holds beside what is used.
FRAGMENTATION = 0.05
# florence.distributed.deepspeed_engine reduces gradients in buckets of this many elements.
BUCKET_ELEMENTS = 50_000_000
# DeepSpeed keeps gathered parameters that are used again within this many (its own default).
LIVE_PARAMETERS = 1_000_000_000


class MemoryPerGpu(Settings):
    """Bytes that one process needs at its peak."""

    model_states: int = setting(
        description="parameters, gradients and optimizer states", unit="bytes"
    )
    activations: int = setting(
        description="what the backward pass needs from the forward pass, and its own work",
        unit="bytes",
    )
    batch: int = setting(description="images and token ids", unit="bytes")
    features: int = setting(
        description="embeddings of the global batch and their gradients", unit="bytes"
    )
    logits: int = setting(description="similarities and their softmax", unit="bytes")
    overhead: int = setting(description="context, libraries and fragmentation", unit="bytes")
    total: int = setting(description="the sum", unit="bytes")


class MemoryOption(Settings):
    """Settings that trade memory for time, and what they need."""

    zero_stage: int = setting(description="what DeepSpeed shards")
    activation_checkpointing: ActivationCheckpointing = setting(description="what is recomputed")
    gradient_cache_chunks: int = setting(description="parts of a rank's batch")
    total: int = setting(description="memory per GPU", unit="bytes")
    fits: bool | None = setting(None, description="whether the GPU has as much")


def model_state_bytes(
    architecture: Architecture, settings: Training, *, cost: Cost, processes: int, cuda: bool
) -> float:
    """Parameters, gradients and AdamW's moments of one process; frozen ones are parameters only.

    Both engines keep all of them in fp32 and compute under autocast, whose copies of the weights
    live until the backward pass has used them.
    """
    psi = cost.trained_parameters(architecture, settings)
    frozen = FP32 * (cost.parameters(architecture, settings).total - psi)
    shared = psi / processes
    casts = cost.cast_bytes(architecture, settings) + frozen
    if not uses_deepspeed(settings, processes, cuda=cuda) or settings.zero_stage == 0:
        return 4 * FP32 * psi + casts
    bucket = FP32 * BUCKET_ELEMENTS
    # A rank's partition: masters apart from the parameters, both moments, and its gradients.
    partition = 4 * FP32 * shared
    if settings.zero_stage == 1:
        # Gradients twice: as the backward pass leaves them, and as DeepSpeed accumulates them.
        return 3 * FP32 * psi + partition + bucket + casts
    if settings.zero_stage == 2:
        return FP32 * psi + partition + bucket + casts
    gathered = FP32 * min(psi, LIVE_PARAMETERS)
    return FP32 * shared + partition + gathered + bucket + casts


def uses_deepspeed(settings: Training, processes: int, *, cuda: bool) -> bool:
    """Whether DeepSpeed drives the optimizer, where it is installed."""
    if settings.engine is EngineKind.AUTO:
        return cuda or processes > 1
    return settings.engine is EngineKind.DEEPSPEED


def memory_per_gpu(
    architecture: Architecture, settings: Training, *, cost: Cost, processes: int, cuda: bool
) -> MemoryPerGpu:
    """The peak of one process in a step, part by part.

    Parts whose peaks do not coincide are added all the same: the total is an upper bound, by the
    smaller of activations and logits.
    """
    rows = settings.samples_per_process(processes)
    chunk = math.ceil(rows / settings.gradient_cache_chunks)
    states = model_state_bytes(architecture, settings, cost=cost, processes=processes, cuda=cuda)
    activations = chunk * cost.activation_bytes(architecture, settings, cuda=cuda)
    batch = rows * cost.sample_bytes(architecture, settings)
    loss = cost.loss_bytes(architecture, settings, rows=rows, processes=processes)
    used = states + activations + batch + loss.features + loss.logits
    overhead = (CUDA_CONTEXT + FRAGMENTATION * used) if cuda else CPU_CONTEXT
    return MemoryPerGpu(
        model_states=round(states),
        activations=round(activations),
        batch=batch,
        features=round(loss.features),
        logits=round(loss.logits),
        overhead=round(overhead),
        total=round(used + overhead),
    )


def memory_options(
    architecture: Architecture,
    settings: Training,
    *,
    cost: Cost,
    processes: int,
    cuda: bool,
    capacity: int | None,
) -> list[MemoryOption]:
    """Every ZeRO stage with every checkpointing, the gradient cache as in ``settings``."""
    stages = range(4) if uses_deepspeed(settings, processes, cuda=cuda) else range(1)
    return [
        _option(
            architecture,
            _changed(settings, stage, checkpointing, settings.gradient_cache_chunks),
            cost,
            processes,
            cuda,
            capacity,
        )
        for stage in stages
        for checkpointing in ActivationCheckpointing
    ]


def recommend(
    architecture: Architecture,
    settings: Training,
    *,
    cost: Cost,
    processes: int,
    capacity: int,
    cuda: bool = True,
) -> MemoryOption | None:
    """The fastest settings that fit into ``capacity`` bytes of one process; None when none do.

    The gradient cache is never combined with checkpointing of whole blocks: either repeats the
    forward pass, and smaller chunks save what the other would.
    """
    for candidate in _fastest_first(settings, processes, cuda):
        option = _option(architecture, candidate, cost, processes, cuda, capacity)
        if option.fits:
            return option
    return None


def _fastest_first(settings: Training, processes: int, cuda: bool) -> Iterator[Training]:
    rows = settings.samples_per_process(processes)
    sharded = uses_deepspeed(settings, processes, cuda=cuda) and processes > 1
    stages = range(max(settings.zero_stage, 1), 4) if sharded else (0,)
    chunks = [n for n in range(2, rows + 1) if rows % n == 0]
    for checkpointing in ActivationCheckpointing:
        for stage in stages:
            if stage < 3:  # gathering parameters costs more than selective recomputation
                yield _changed(settings, stage, checkpointing, 1)
    for stage in stages:
        for n in chunks:
            yield _changed(settings, stage, ActivationCheckpointing.NONE, n)


def _changed(
    settings: Training, zero_stage: int, checkpointing: ActivationCheckpointing, chunks: int
) -> Training:
    return settings.model_copy(
        update={
            "zero_stage": zero_stage,
            "activation_checkpointing": checkpointing,
            "gradient_cache_chunks": chunks,
        }
    )


def _option(
    architecture: Architecture,
    settings: Training,
    cost: Cost,
    processes: int,
    cuda: bool,
    capacity: int | None,
) -> MemoryOption:
    total = memory_per_gpu(architecture, settings, cost=cost, processes=processes, cuda=cuda).total
    return MemoryOption(
        zero_stage=settings.zero_stage,
        activation_checkpointing=settings.activation_checkpointing,
        gradient_cache_chunks=settings.gradient_cache_chunks,
        total=total,
        fits=None if capacity is None else total <= capacity,
    )

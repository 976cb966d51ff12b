"""Memory of a GPU in one training step: what each part takes, by ZeRO stage and checkpointing."""

from __future__ import annotations

import math
from collections.abc import Iterator

from florence.config import Architecture, Checkpointing, EngineKind, Precision, Pretrain
from florence.config.base import Settings, setting
from florence.errors import ConfigurationError
from florence.planner.activations import (
    FP32,
    INT64,
    image_units,
    numerics,
    peak_bytes,
    text_units,
)
from florence.planner.sizes import parameters

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
    activation_checkpointing: Checkpointing = setting(description="what is recomputed")
    gradient_cache_chunks: int = setting(description="parts of a rank's batch")
    total: int = setting(description="memory per GPU", unit="bytes")
    fits: bool | None = setting(None, description="whether the GPU has as much")


def samples_per_process(settings: Pretrain, processes: int) -> int:
    """The rank's share of the global batch.

    Raises:
        ConfigurationError: the batch does not divide over the processes.
    """
    if settings.batch_size % processes:
        nearest = max(round(settings.batch_size / processes), 1) * processes
        raise ConfigurationError(
            f"batchSize={settings.batch_size} does not divide over {processes} processes: "
            f"use a multiple of {processes} such as {nearest}"
        )
    return settings.batch_size // processes


def model_state_bytes(
    architecture: Architecture, settings: Pretrain, *, processes: int, cuda: bool
) -> float:
    """Parameters, gradients and AdamW's moments of one process.

    Both engines keep all of them in fp32 and compute under autocast, whose copies of the weights
    live until the backward pass has used them.
    """
    psi = parameters(architecture, window=settings.window).total
    shared = psi / processes
    casts = _cast_bytes(architecture, settings)
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


def uses_deepspeed(settings: Pretrain, processes: int, *, cuda: bool) -> bool:
    """Whether DeepSpeed drives the optimizer, where it is installed."""
    if settings.engine is EngineKind.AUTO:
        return cuda or processes > 1
    return settings.engine is EngineKind.DEEPSPEED


def memory_per_gpu(
    architecture: Architecture, settings: Pretrain, *, processes: int, cuda: bool
) -> MemoryPerGpu:
    """The peak of one process in a step, part by part.

    Parts whose peaks do not coincide are added all the same: the total is an upper bound, by the
    smaller of activations and logits.
    """
    rows = samples_per_process(settings, processes)
    chunk = math.ceil(rows / settings.gradient_cache_chunks)
    states = model_state_bytes(architecture, settings, processes=processes, cuda=cuda)
    activations = chunk * activation_bytes(architecture, settings, cuda=cuda)
    batch = rows * (3 * settings.resolution**2 * FP32 + architecture.text.context * INT64)
    features = _feature_bytes(architecture, settings, rows, processes)
    logits = _logit_bytes(settings, rows)
    used = states + activations + batch + features + logits
    overhead = (CUDA_CONTEXT + FRAGMENTATION * used) if cuda else CPU_CONTEXT
    return MemoryPerGpu(
        model_states=round(states),
        activations=round(activations),
        batch=batch,
        features=round(features),
        logits=round(logits),
        overhead=round(overhead),
        total=round(used + overhead),
    )


def activation_bytes(architecture: Architecture, settings: Pretrain, *, cuda: bool) -> float:
    """Highest bytes per sample that the towers hold while they are trained."""
    numbers = numerics(settings.precision, architecture.image.attention, cuda=cuda)
    checkpointing = settings.activation_checkpointing
    image = image_units(
        architecture,
        resolution=settings.resolution,
        window=settings.window,
        checkpointing=checkpointing,
        numbers=numbers,
    )
    text = text_units(
        architecture,
        tokens=architecture.text.context,
        checkpointing=checkpointing,
        numbers=numbers,
    )
    return peak_bytes([*image, *text])


def memory_options(
    architecture: Architecture,
    settings: Pretrain,
    *,
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
            processes,
            cuda,
            capacity,
        )
        for stage in stages
        for checkpointing in Checkpointing
    ]


def recommend(
    architecture: Architecture, settings: Pretrain, *, processes: int, capacity: int
) -> MemoryOption | None:
    """The fastest settings that fit on a GPU of ``capacity`` bytes; None when none do.

    The gradient cache is never combined with checkpointing of whole blocks: either repeats the
    forward pass, and smaller chunks save what the other would.
    """
    for candidate in _fastest_first(settings, processes):
        option = _option(architecture, candidate, processes, True, capacity)
        if option.fits:
            return option
    return None


def _fastest_first(settings: Pretrain, processes: int) -> Iterator[Pretrain]:
    rows = samples_per_process(settings, processes)
    sharded = uses_deepspeed(settings, processes, cuda=True) and processes > 1
    stages = range(max(settings.zero_stage, 1), 4) if sharded else (0,)
    chunks = [n for n in range(2, rows + 1) if rows % n == 0]
    for checkpointing in Checkpointing:
        for stage in stages:
            if stage < 3:  # gathering parameters costs more than selective recomputation
                yield _changed(settings, stage, checkpointing, 1)
    for stage in stages:
        for n in chunks:
            yield _changed(settings, stage, Checkpointing.NONE, n)


def _changed(
    settings: Pretrain, zero_stage: int, checkpointing: Checkpointing, chunks: int
) -> Pretrain:
    return settings.model_copy(
        update={
            "zero_stage": zero_stage,
            "activation_checkpointing": checkpointing,
            "gradient_cache_chunks": chunks,
        }
    )


def _option(
    architecture: Architecture,
    settings: Pretrain,
    processes: int,
    cuda: bool,
    capacity: int | None,
) -> MemoryOption:
    total = memory_per_gpu(architecture, settings, processes=processes, cuda=cuda).total
    return MemoryOption(
        zero_stage=settings.zero_stage,
        activation_checkpointing=settings.activation_checkpointing,
        gradient_cache_chunks=settings.gradient_cache_chunks,
        total=total,
        fits=None if capacity is None else total <= capacity,
    )


def _cast_bytes(architecture: Architecture, settings: Pretrain) -> float:
    """Autocast's half-precision copies of weights in the graph; recomputed blocks hold none."""
    if settings.precision is Precision.FP32:
        return 0.0
    counts = parameters(architecture, window=settings.window)
    text = architecture.text
    image = float(counts.image)
    blocks = counts.text - (text.vocabulary + text.context) * text.width
    if settings.activation_checkpointing is Checkpointing.SELECTIVE:
        ratio = architecture.image.mlp_ratio
        return 2 * image * ratio / (ratio + 2)
    return 0.0 if settings.activation_checkpointing is Checkpointing.FULL else 2 * (image + blocks)


def _feature_bytes(
    architecture: Architecture, settings: Pretrain, rows: int, processes: int
) -> float:
    pair = 2 * architecture.embed_dim * FP32
    own = rows * pair * (2 if settings.gradient_cache_chunks > 1 else 1)
    if processes == 1:
        return own + settings.batch_size * pair  # the gradient
    # Gathered features, their gradients, and the mean of each label's.
    return own + 3 * settings.batch_size * pair


def _logit_bytes(settings: Pretrain, rows: int) -> float:
    """Both directions' rows by the global batch, and the copies that a softmax works with."""
    chunk = settings.loss.row_chunk
    row = settings.batch_size * FP32
    if 0 < chunk < rows:
        return 3 * chunk * row
    return 4 * rows * row

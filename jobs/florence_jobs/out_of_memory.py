"""What to tell a user whose stage ran out of memory: what it needs, what there is, what fits."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import resource
from collections.abc import Mapping
from dataclasses import dataclass

from florence.config import EngineKind, Evaluate, Training
from florence.kinds import kind_named
from florence.planner import Cost, MemoryOption, memory_per_gpu, recommend
from florence_jobs.cgroup import memory_texts
from florence_operator.api.stage import StagePlan

_SAID = re.compile(
    # torch's allocators, cuBLAS, and numpy in a data loader's worker.
    r"can't allocate memory|not enough memory|out of memory|Cannot allocate memory"
    r"|Unable to allocate|MemoryError|CUBLAS_STATUS_ALLOC_FAILED"
    # Sizes that no machine can have.
    r"|calculation overflowed|array is too big|Maximum allowed (size|dimension) exceeded"
    r"|cannot fit 'int' into an index-sized integer|too large to convert to C",
    re.IGNORECASE,
)
_ROOM = 0.9
"""The part of the memory that settings may fill which are recommended."""
_LESS = 0.75
"""How much less than what has failed a recommendation needs by estimate, where that seemed to fit.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one process of a stage may use."""

    capacity: int
    """Bytes."""
    device: str
    """Whose they are, in words."""
    cuda: bool


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory did not suffice; the same settings will meet it again."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    kinds = (RuntimeError, ValueError, OverflowError)
    return isinstance(error, kinds) and bool(_SAID.search(str(error)))


def available_memory(environment: Mapping[str, str] = os.environ) -> Memory:
    """What this process may use: its GPU, or its share of what this machine or container has."""
    import torch

    if torch.cuda.is_available():
        device = int(environment.get("LOCAL_RANK", "0"))
        total = torch.cuda.get_device_properties(device).total_memory
        return Memory(capacity=total, device=torch.cuda.get_device_name(device), cuda=True)
    return host_memory(int(environment.get("LOCAL_WORLD_SIZE", "1")))


def host_memory(ranks: int) -> Memory:
    """A rank's share of the memory of this machine, or of the container that it is in."""
    import psutil

    shares = [psutil.virtual_memory().total // ranks]
    limits = memory_texts("memory.limit_in_bytes", "memory.max")
    shares += [int(limit) // ranks for limit in map(str.strip, limits) if limit.isdigit()]
    own, _ = resource.getrlimit(resource.RLIMIT_AS)
    if own != resource.RLIM_INFINITY:
        shares.append(own)
    device_name = "each of the processes here" if ranks > 1 else "this machine"
    return Memory(capacity=min(shares), device=device_name, cuda=False)


def advice(plan: StagePlan, memory: Memory, *, processes: int) -> str:
    """What a stage of these settings needs, and which settings fit.

    Args:
        plan: the stage that ran out of memory.
        memory: what each process has.
        processes: ranks of the stage.
    """
    config, cost = plan.config, kind_named(plan.kind).cost
    if isinstance(config, Evaluate):
        return (
            f"{config.batch_size} images at once are too many for {memory.device} "
            f"({_size(memory.capacity)}): lower batchSize, resolution or workers"
        )
    if not isinstance(config, Training) or cost is None:
        return (
            f"{memory.device} has {_size(memory.capacity)}: lower the stage's batchSize or its "
            "resolution"
        )
    settings = _as_run(config)
    architecture = plan.model.architecture()
    needed = memory_per_gpu(
        architecture, settings, cost=cost, processes=processes, cuda=memory.cuda
    ).total
    rows, chunks = settings.samples_per_process(processes), settings.gradient_cache_chunks
    asked = (
        f"{rows} samples a rank at resolution {settings.resolution}"
        f"{f' in {chunks} chunks' if chunks > 1 else ''} need about {_size(needed)} by estimate, "
        f"{memory.device} has {_size(memory.capacity)}"
    )
    if needed < _ROOM * memory.capacity:
        asked += ", which something else may be using"
    option = _fitting(plan, settings, cost, memory, processes, needed)
    fewer = "a smaller batchSize, resolution or model.preset, or more processes"
    if option is None:
        return f"{asked}; no chunks, checkpointing or ZeRO stage would do: choose {fewer}"
    return (
        f"{asked}; {_described(option, settings)} would need {_size(option.total)} for the same "
        f"result. Set that, or {fewer}"
    )


def advice_when_killed(plan: StagePlan, memory: Memory, *, processes: int, gpus: bool) -> str:
    """What to say of a stage that the kernel ended, because the host's memory did not suffice.

    Args:
        plan: the stage.
        memory: what each process has of the host's.
        processes: ranks of the stage.
        gpus: whether it trained on GPUs, which have memory of their own.
    """
    said = "the kernel ended a process of it because memory ran out"
    config = plan.config
    if not isinstance(config, Training):
        return f"{said}: {advice(plan, memory, processes=processes)}"
    loader = config.loader
    readers = (
        f"each of loader.workers ({loader.workers} a rank) holds up to {_size(loader.cache_bytes)} "
        "of shards: lower it, loader.cacheBytes or loader.prefetch"
    )
    if gpus:
        return f"{said}: {memory.device} has {_size(memory.capacity)}; {readers}"
    return f"{said}: {advice(plan, memory, processes=processes)}; {readers}"


def _as_run(settings: Training) -> Training:
    """The settings with the engine that ``auto`` means here."""
    if settings.engine is EngineKind.AUTO and importlib.util.find_spec("deepspeed") is None:
        return settings.model_copy(update={"engine": EngineKind.TORCH})
    return settings


def _fitting(
    plan: StagePlan, settings: Training, cost: Cost, memory: Memory, processes: int, needed: int
) -> MemoryOption | None:
    option = recommend(
        plan.model.architecture(),
        settings,
        cost=cost,
        processes=processes,
        capacity=round(min(_ROOM * memory.capacity, _LESS * needed)),
        cuda=memory.cuda,
    )
    return option if option and _described(option, settings) else None


def _described(option: MemoryOption, settings: Training) -> str:
    """The settings of an option that differ, as a job would write them."""
    changes = []
    if option.zero_stage > settings.zero_stage:
        changes.append(f"zeroStage: {option.zero_stage}")
    if option.gradient_cache_chunks != settings.gradient_cache_chunks:
        changes.append(f"gradientCacheChunks: {option.gradient_cache_chunks}")
    if option.activation_checkpointing is not settings.activation_checkpointing:
        changes.append(f"activationCheckpointing: {option.activation_checkpointing.value}")
    return ", ".join(changes)


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"

"""DeepSpeed behind the engine interface: ZeRO 0 to 3 with fp32 masters and canonical checkpoints.

DeepSpeed runs in its fp32 mode and the model under torch's autocast, so both engines do the same
arithmetic in every precision. Its checkpoint format is not used: shards are named by parameter and
offset, which any engine on any number of ranks can read.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from florence.checkpoint.fragment import Fragment, TensorReader, share_of
from florence.config import Training
from florence.distributed.accumulation import accumulate_gradients
from florence.distributed.buffers import BufferGuard, persistent_buffers
from florence.distributed.engine import PrecisionModule, StepResult, evaluation_mode
from florence.distributed.objective import Objective
from florence.distributed.optimizer import (
    GuardedAdamW,
    LossScale,
    adamw,
    initialise_moments,
)
from florence.distributed.parameter_rules import (
    ParameterTraining,
    bounds,
    clamp,
    freeze,
    optimizer_groups,
    set_learning_rate,
)
from florence.distributed.restoring import OnProgress
from florence.distributed.training_state import (
    MODEL,
    MOMENTS,
    Shard,
    cpu_copies,
    fill_state,
    fill_whole,
    whole_tensors,
)
from florence.distributed.world import World

_BUCKET_ELEMENTS = 50_000_000
#: Smaller parameters are not worth a collective each time: ZeRO 3 keeps them whole beside a shard.
_SMALL_ELEMENTS = 100_000


def deepspeed_config(settings: Training, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration; every value that decides the result is written out.

    Its own defaults change between versions: gradients are clipped to 1.0 unless told otherwise.
    """
    rows = settings.batch_size // world_size
    return {
        "train_batch_size": rows * world_size,
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": 1,
        # Chunks of the gradient cache are backward passes of one step, as many as we say.
        "managed_gradient_accumulation": False,
        # Stage 0 clips in GuardedAdamW, which also knows how to skip.
        "gradient_clipping": settings.optimizer.clip_norm if settings.zero_stage else 0.0,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": settings.zero_stage,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            "allgather_bucket_size": _BUCKET_ELEMENTS,
            "stage3_param_persistence_threshold": _SMALL_ELEMENTS,
            "overlap_comm": False,  # without managed accumulation only stage 2 could
            "round_robin_gradients": False,
        },
        "wall_clock_breakdown": False,
        "steps_per_print": None,
    }


class DeepSpeedEngine:
    """See :class:`florence.distributed.engine.Engine`.

    Stages 1 to 3 reduce, clip and check gradients inside DeepSpeed, stage 0 in
    :class:`GuardedAdamW`; the update is torch's fused AdamW in all of them.
    """

    name = "deepspeed"

    def __init__(
        self,
        model: nn.Module,
        settings: Training,
        objective: Objective[Any],
        world: World,
        *,
        training: Mapping[str, ParameterTraining],
    ) -> None:
        _prepare(world)
        self.device = world.device
        self.model = model.to(world.device)
        self._world = world
        self._objective = objective
        self._stage = settings.zero_stage
        self._chunks = settings.gradient_cache_chunks
        freeze(self.model, training)
        self._loss_scale = LossScale.of(settings.precision)
        self._steps = 0
        self._parameters = dict(model.named_parameters())
        self._shapes = {name: tuple(p.shape) for name, p in self._parameters.items()}

        groups = optimizer_groups(self.model, training)
        make = GuardedAdamW if self._stage == 0 else adamw
        self._adamw = make(groups, settings.optimizer)
        self._engine, self._zero, _, _ = deepspeed.initialize(
            model=PrecisionModule(self.model, settings.precision),
            optimizer=self._adamw,
            config=deepspeed_config(settings, world.size),
            dist_init_required=False,
        )
        initialise_moments(self._adamw, self._stepped_tensors())
        self._buffers = BufferGuard(self.model, world)
        self._maxima = bounds(training)
        self._bounded_views = [
            (shard.views[MODEL], self._maxima[shard.parameter])
            for shard in self._shards()
            if shard.parameter in self._maxima
        ]

    def step(self, batch: Any, *, lr: float) -> StepResult:
        """One optimizer step on this rank's rows of the global batch."""
        self._buffers.begin()
        self._set_loss_scale(self._loss_scale.value)
        loss = accumulate_gradients(
            self._objective,
            self._engine,
            batch.to(self.device),
            chunks=self._chunks,
            backward=self._backward,
            synchronise=_always,  # stages 0 and 1 reduce in step(), 2 and 3 in every backward
            mean_over_ranks=self._world.all_reduce_mean,
        )
        set_learning_rate(self._adamw, lr)
        self._engine.step()
        if isinstance(self._adamw, GuardedAdamW):
            grad_norm, skipped = self._adamw.grad_norm, self._adamw.skipped
        else:
            grad_norm, skipped = float(self._zero._global_grad_norm), bool(self._zero.overflow)
        self._buffers.end(skipped=skipped)
        self._loss_scale.update(overflow=skipped)
        if not skipped:
            self._steps += 1
            self._clamp()
        return StepResult(
            loss=float(loss.value), grad_norm=grad_norm, skipped=skipped, metrics=loss.metrics
        )

    def fragments(self) -> list[Fragment]:
        """This rank's share of the state, views of live memory; see :class:`Engine`."""
        if self._stage == 0:
            tensors = whole_tensors(self.model, self._adamw)
            return share_of(tensors, self._world.rank, self._world.size)
        own = [fragment for shard in self._shards() for fragment in shard.fragments()]
        return own + share_of(self._unsharded(), self._world.rank, self._world.size)

    @torch.no_grad()
    def restore(self, read: TensorReader, on_progress: OnProgress | None = None) -> None:
        """Take model and moments from a checkpoint; see :class:`Engine`."""
        if self._stage == 0:
            tensors = whole_tensors(self.model, self._adamw)
            fill_whole(tensors, read, self._world, on_progress=on_progress)
            return
        whole = {
            f"{MODEL}/{name}": parameter.detach()
            for name, parameter in self._parameters.items()
            if self._is_whole(parameter)
        }
        shards = self._shards()
        fill_state(
            read,
            self._world,
            whole=whole | self._unsharded(),
            shards=shards,
            on_progress=on_progress,
        )
        if self._stage == 3:
            for shard in shards:
                partition = _zero3(self._parameters[shard.parameter]).ds_tensor
                partition[: shard.views[MODEL].numel()].copy_(shard.views[MODEL])

    def counters(self) -> dict[str, float | int]:
        """Optimizer steps taken and the state of the loss scale."""
        return {"optimizer_steps": self._steps, **self._loss_scale.counters()}

    def restore_counters(self, counters: Mapping[str, float | int]) -> None:
        """Continue from :meth:`counters`."""
        self._steps = int(counters["optimizer_steps"])
        for state in self._adamw.state.values():
            state["step"].fill_(self._steps)
        self._loss_scale.restore(counters)

    def model_state(self) -> dict[str, Tensor]:
        """Whole parameters and buffers by name; see :class:`Engine`."""
        keep = self._world.is_first
        state = cpu_copies(persistent_buffers(self.model).items()) if keep else {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            # One at a time, so that no GPU needs to hold the whole model.
            with self._gathered([parameter]):
                state |= cpu_copies([(name, parameter)]) if keep else {}
        return state

    @contextmanager
    def inference(self) -> Iterator[nn.Module]:
        """The model in evaluation mode; see :class:`Engine`.

        Modules' own hooks gather what a call needs. Small parameters may also be looked at outside
        of a call, such as the temperature.
        """
        small = [
            parameter
            for name, parameter in self._parameters.items()
            if math.prod(self._shapes[name]) <= _SMALL_ELEMENTS
        ]
        with evaluation_mode(self.model), self._gathered(small):
            yield self.model

    def _gathered(self, parameters: list[nn.Parameter]) -> AbstractContextManager[Any]:
        """Makes parameters whole on every rank for a while; collective."""
        if self._stage < 3:
            return contextlib.nullcontext()
        gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(parameters)
        return gathered

    def _unsharded(self) -> dict[str, Tensor]:
        """What ZeRO leaves whole on every rank, by canonical name: buffers, frozen parameters."""
        whole = persistent_buffers(self.model)
        for name, parameter in self._parameters.items():
            if self._stage < 3 and not parameter.requires_grad:
                whole[name] = parameter.detach()
        return {f"{MODEL}/{name}": tensor for name, tensor in whole.items()}

    def _backward(self, scalar: Tensor) -> None:
        if self._stage == 0:
            scalar = scalar * self._loss_scale.value
        self._engine.backward(scalar, scale_wrt_gas=False)

    def _set_loss_scale(self, value: float) -> None:
        if isinstance(self._adamw, GuardedAdamW):
            self._adamw.loss_scale = value
        elif value != self._zero.loss_scale:
            self._zero.override_loss_scale(value)

    def _stepped_tensors(self) -> list[Tensor]:
        """What AdamW updates: the parameters, or this rank's flat partitions of them."""
        if self._stage == 0:
            return [p for group in self._adamw.param_groups for p in group["params"]]
        if self._stage == 3:
            return list(self._zero.fp32_partitioned_groups_flat)
        return list(self._zero.single_partition_of_fp32_groups)

    def _shards(self) -> list[Shard]:
        """The runs of parameters that this rank's flat partitions hold, without their padding."""
        if self._stage == 0:
            return []
        shards: list[Shard] = []
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        runs = _stage3_runs if self._stage == 3 else _stage12_runs
        for index, flat in enumerate(self._stepped_tensors()):
            tensors = {MODEL: flat, **{kind: self._adamw.state[flat][kind] for kind in MOMENTS}}
            for run in runs(self._zero, index, self._world.rank):
                name = names[id(run.parameter)]
                views = {
                    kind: tensor.detach()[run.start : run.start + run.length]
                    for kind, tensor in tensors.items()
                }
                shards.append(Shard(name, self._shapes[name], run.offset, views))
        return shards + (self._frozen_shards() if self._stage == 3 else [])

    def _frozen_shards(self) -> list[Shard]:
        """This rank's partitions of the frozen parameters, which ZeRO 3 cuts up as well."""
        shards = []
        for name, parameter in self._parameters.items():
            if parameter.requires_grad:
                continue
            partition = _zero3(parameter).ds_tensor
            offset = self._world.rank * partition.ds_numel
            length = min(partition.ds_numel, _zero3(parameter).ds_numel - offset)
            if length > 0:
                view = partition.detach()[:length]
                shards.append(Shard(name, self._shapes[name], offset, {MODEL: view}))
        return shards

    def _is_whole(self, parameter: nn.Parameter) -> bool:
        """Whether this process holds all of the parameter beside its shard."""
        return self._stage < 3 or _zero3(parameter).ds_status.name == "AVAILABLE"

    def _clamp(self) -> None:
        """Clamp every copy; all ranks hold equal ones, so none has to tell the others."""
        whole = [
            (self._parameters[name].data, maximum)
            for name, maximum in self._maxima.items()
            if self._is_whole(self._parameters[name])
        ]
        partitions = [
            (_zero3(self._parameters[name]).ds_tensor, maximum)
            for name, maximum in self._maxima.items()
            if self._stage == 3
        ]
        clamp([*whole, *partitions, *self._bounded_views])


class _Run(NamedTuple):
    """``length`` elements of a parameter from ``offset``, at ``start`` of a flat partition."""

    parameter: nn.Parameter
    offset: int
    start: int
    length: int


def _stage12_runs(zero: Any, group: int, rank: int) -> Iterator[_Run]:
    """ZeRO 1 and 2 lay a group's parameters end to end and cut the buffer into equal partitions."""
    flat = zero.bit16_groups_flat[group]
    begin = rank * zero.partition_size[group]
    end = begin + zero.partition_size[group]
    for parameter in zero.bit16_groups[group]:
        # Parameters are views of the buffer: their address tells the place, whatever the padding.
        first = (parameter.data_ptr() - flat.data_ptr()) // flat.element_size()
        start, stop = max(first, begin), min(first + parameter.numel(), end)
        if start < stop:
            yield _Run(parameter, start - first, start - begin, stop - start)


def _stage3_runs(zero: Any, sub_group: int, rank: int) -> Iterator[_Run]:
    """ZeRO 3 cuts every parameter into equal partitions and lays a rank's end to end."""
    start = 0
    for parameter in zero.fp16_groups[sub_group]:
        partition = parameter.ds_tensor.ds_numel
        offset = rank * partition
        length = min(partition, parameter.ds_numel - offset)
        if length > 0:
            yield _Run(parameter, offset, start, length)
        start += partition


def _zero3(parameter: nn.Parameter) -> Any:
    """The parameter with the attributes ZeRO 3 gave it, which no type knows."""
    return parameter


def _always(is_last: bool) -> AbstractContextManager[Any]:
    return contextlib.nullcontext()


def _prepare(world: World) -> None:
    """Make DeepSpeed use the process group there is, quietly and without a compiler.

    On a CPU it would compile a shared-memory all-reduce when it starts, which takes minutes and
    needs a compiler and a writable home; gloo does the same sums.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))  # it asks for a launcher's mark
    if not dist.is_initialized():
        # It insists on a process group even for one process.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo",
            store=dist.HashStore(),  # type: ignore[attr-defined]
            rank=0,
            world_size=1,
        )
    deepspeed.init_distributed(
        "nccl" if world.device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False
    )

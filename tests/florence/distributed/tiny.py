"""The smallest model with the two-tower contract, and batches for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from florence.checkpoint.fragment import Fragment
from florence.config import Architecture, ContrastiveLoss, Optimizer, architecture_of
from florence.distributed.engine import StepResult
from florence.distributed.parameter_rules import ParameterRule
from florence.errors import DataError
from florence.tasks.pretrain.settings import Pretrain


class TinyTwoTower(nn.Module):
    """Two MLPs of images (b, 3, 4, 4) and ids (b, 6) into 5 channels; odd sizes on purpose."""

    def __init__(self, *, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Flatten(), nn.Linear(48, 13), nn.LayerNorm(13), nn.GELU(), nn.Dropout(dropout)
        )
        self.image_projection = nn.Linear(13, 5, bias=False)
        self.embedding = nn.Embedding(11, 7)
        self.text = nn.Sequential(nn.Linear(7, 9), nn.GELU(), nn.Dropout(dropout), nn.Linear(9, 5))
        self.logit_scale = nn.Parameter(torch.tensor([2.659]))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name != "logit_scale":
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = self.image_projection(self.image(images))
        v = self.text(self.embedding(input_ids)).mean(1)
        return F.normalize(_wide(u), dim=1), F.normalize(_wide(v), dim=1), self.logit_scale.clone()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


class FrozenAndCounting(TinyTwoTower):
    """A tower with a frozen layer's worth of rules, and buffers that training changes.

    ``mean`` follows the images of a batch, ``drift`` the weights and nothing else, so that it is
    the same for any number of ranks; ``passes`` counts in whole numbers; ``scratch`` is not kept.
    """

    RULES = (
        ParameterRule(pattern="image.*", lr_scale=0.1),
        ParameterRule(pattern="image.1.weight", frozen=True),
        ParameterRule(pattern="*.bias", weight_decay=0.0),
        ParameterRule(pattern="embedding.weight", frozen=True),
        ParameterRule(pattern="text.3.*", lr_scale=3.0),
        ParameterRule(pattern="logit_scale", weight_decay=0.0, maximum=2.6),
        ParameterRule(pattern="text.0.weight", maximum=0.25),
    )
    FROZEN = ("image.1.weight", "embedding.weight")

    mean: Tensor
    drift: Tensor
    passes: Tensor
    scratch: Tensor

    def __init__(self, *, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__(seed=seed, dropout=dropout)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("drift", torch.full((5, 13), float(seed)))
        self.image.register_buffer("passes", torch.tensor(seed))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = super().forward(images, input_ids)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(images.mean((0, 2, 3)), 0.1)
                # A buffer may also be replaced by another tensor instead of changed in place.
                self.drift = self.drift.lerp(outputs[2].square().expand(5, 13), 0.1)
                self.image.passes += 1 << 40  # beyond what fp32 can count
        return outputs


@dataclass
class TinyBatch:
    """Images, ids and labels; :func:`tiny_batch` makes those of any number of ranks."""

    images: Tensor
    input_ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def chunk(self, n: int) -> Sequence[TinyBatch]:
        tensors = (self.images, self.input_ids, self.labels)
        return [
            TinyBatch(*part) for part in zip(*(t.tensor_split(n) for t in tensors), strict=True)
        ]

    def to(self, device: Any) -> TinyBatch:
        return TinyBatch(self.images.to(device), self.input_ids.to(device), self.labels.to(device))

    def rows_of(self, rank: int, size: int) -> TinyBatch:
        """Rank's part of the global batch."""
        return self.chunk(size)[rank]


def tiny_batch(step: int, size: int = 12) -> TinyBatch:
    """The global batch of a step; about three samples share each label."""
    generator = torch.Generator().manual_seed(1_000 + step)
    return TinyBatch(
        torch.randn(size, 3, 4, 4, generator=generator),
        torch.randint(11, (size, 6), generator=generator),
        torch.randint(size // 3, (size,), generator=generator),
    )


def tiny_settings(**changes: Any) -> Pretrain:
    """Settings of a run on :func:`tiny_batch`, with a clip norm that matters."""
    defaults: dict[str, Any] = {
        "data": "none",
        "batch_size": 12,
        "steps": 100,
        "optimizer": Optimizer(lr=0.01, weight_decay=0.1, clip_norm=0.5, warmup_steps=0),
        "loss": ContrastiveLoss(),
    }
    return Pretrain(**(defaults | changes))


def tiny_rules(settings: Pretrain) -> list[ParameterRule]:
    """A bounded temperature, and no decay of vectors."""
    vectors = [name for name, tensor in TinyTwoTower().named_parameters() if tensor.ndim < 2]
    return [
        *(ParameterRule(pattern=name, weight_decay=0.0) for name in vectors),
        ParameterRule(pattern="logit_scale", maximum=math.log(settings.loss.max_scale)),
    ]


class MemoryReader:
    """A checkpoint in memory, put together from the fragments of any number of ranks.

    Refuses elements that two fragments hold, or none.
    """

    def __init__(self, fragments: Sequence[tuple[str, tuple[int, ...], int, Any]]) -> None:
        self._tensors: dict[str, Tensor] = {}
        written: dict[str, Tensor] = {}
        for name, shape, offset, values in fragments:
            size = math.prod(shape)
            values = torch.as_tensor(values)
            whole = self._tensors.setdefault(name, torch.zeros(shape, dtype=values.dtype))
            count = written.setdefault(name, torch.zeros(size, dtype=torch.int64))
            assert whole.shape == shape
            assert whole.dtype == values.dtype
            run = slice(offset, offset + len(values))
            whole.view(-1)[run] = values
            count[run] += 1
        for name, count in written.items():
            assert bool((count == 1).all()), f"{name}: elements written {count.tolist()} times"

    def names(self) -> list[str]:
        return sorted(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._tensors:
            raise DataError(f"no tensor {name}")
        return tuple(self._tensors[name].shape)

    def whole(self) -> dict[str, Any]:
        """Every tensor, for other processes."""
        return numpy_of(self._tensors)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Tensor:
        flat = self._tensors[name].view(-1)
        return flat[offset : None if length is None else offset + length].clone()


def portable(fragments: Sequence[Fragment]) -> list[tuple[str, tuple[int, ...], int, Any]]:
    """Fragments as a process can send them to another: copies, as numpy."""
    return [(f.name, f.shape, f.offset, f.values.clone().numpy()) for f in fragments]


def numpy_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Copies of tensors as a process can send them to another."""
    return {name: tensor.detach().clone().numpy() for name, tensor in tensors.items()}


def live_state(model: nn.Module) -> dict[str, Any]:
    """What this process holds of a model now, whatever its engine tells."""
    return numpy_of(model.state_dict())


@dataclass(frozen=True)
class Told:
    """A step's result as a process can send it to another: numbers instead of tensors."""

    loss: float
    grad_norm: float
    skipped: bool
    metrics: Mapping[str, float]


def told(result: StepResult) -> Told:
    """The result with its metrics as numbers."""
    metrics = {name: float(value) for name, value in result.metrics.items()}
    return Told(result.loss, result.grad_norm, result.skipped, metrics)


def relative_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest over tensors of max|a - b| / max|b|; names must agree."""
    assert one.keys() == other.keys()
    differences = []
    for name in one:
        a, b = torch.as_tensor(one[name]), torch.as_tensor(other[name])
        differences.append(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)))
    return max(differences)


def small_coswin() -> Architecture:
    """coswin-nano, cut down to a CPU test's size, with drop-path."""
    nano = architecture_of("coswin-nano")
    return nano.model_copy(
        update={
            "image": nano.image.model_copy(
                update={
                    "width": 16,
                    "heads": (1, 2, 4, 8),
                    "depths": (1, 1, 2, 1),
                    "drop_path": 0.4,
                }
            ),
            "text": nano.text.model_copy(
                update={"width": 32, "heads": 2, "hidden": 64, "layers": 2}
            ),
            "embed_dim": 24,
        }
    )


def pairs(size: int, side: int = 32) -> TinyBatch:
    """Images of the side and short texts for a real two-tower model."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 49_000, (size, 8), generator=generator)
    ids[:, 0], ids[:, -1] = 49_406, 49_407
    return TinyBatch(
        torch.randn(size, 3, side, side, generator=generator), ids, torch.arange(size) // 2
    )


def peak_saved_bytes(model: nn.Module, step: Callable[[], object]) -> int:
    """Most bytes that autograd held at once for backward passes of ``step``, without parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    alive: dict[int, list[int]] = {}
    peak = total = 0

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal peak, total
            storage = tensor.untyped_storage()
            self.tensor, self.key = tensor, storage.data_ptr()
            if self.key in parameters:
                return
            entry = alive.setdefault(self.key, [0, storage.nbytes()])
            entry[0] += 1
            if entry[0] == 1:
                total += entry[1]
                peak = max(peak, total)

        def __del__(self) -> None:
            nonlocal total
            entry = alive.get(self.key)
            if entry is None:
                return
            entry[0] -= 1
            if entry[0] == 0:
                total -= entry[1]
                del alive[self.key]

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        step()
    return peak

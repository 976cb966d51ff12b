"""Activation bytes equal what autograd keeps, and the peak what a backward pass needs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from florence.config import PRESETS, ActivationCheckpointing, Architecture, Attention, Precision
from florence.models.two_tower import TwoTower
from florence.planner.activations import (
    Unit,
    image_units,
    kept_bytes,
    numerics,
    peak_bytes,
    text_units,
)


def with_attention(architecture: Architecture, attention: Attention) -> Architecture:
    image = architecture.image.model_copy(update={"attention": attention})
    return architecture.model_copy(update={"image": image})


def units_of(
    architecture: Architecture,
    resolution: int,
    checkpointing: ActivationCheckpointing,
    precision: Precision,
) -> tuple[list[Unit], list[Unit]]:
    numbers = numerics(precision, architecture.image.attention, cuda=False)
    image = image_units(
        architecture,
        resolution=resolution,
        window=None,
        checkpointing=checkpointing,
        numbers=numbers,
    )
    text = text_units(architecture, tokens=77, checkpointing=checkpointing, numbers=numbers)
    return image, text


def saved_bytes(model: TwoTower, encode: Callable[[], Tensor], inputs: Tensor) -> int:
    """Bytes of the storages that autograd saves, parameters and inputs left out."""
    known = {p.untyped_storage()._cdata for p in model.parameters()}
    known.add(inputs.untyped_storage()._cdata)
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = encode()
    del result  # alive until here, so that no address was used twice
    return sum(saved.values())


def saved_per_sample(
    architecture: Architecture,
    resolution: int,
    checkpointing: ActivationCheckpointing,
    precision: Precision,
    device: str = "cpu",
) -> tuple[float, float]:
    """Of each tower; from two batches, as window indices and cast weights do not grow with them."""
    model = TwoTower(architecture, checkpointing=checkpointing).to(device).train()
    dtype = {Precision.BF16: torch.bfloat16}.get(precision)
    measured = []
    for batch in (2, 4):
        images = torch.zeros(batch, 3, resolution, resolution, device=device)
        ids = torch.zeros(batch, 77, dtype=torch.int64, device=device)
        # Without autocast's cache every cast weight is a storage of its own, whatever came before.
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None, cache_enabled=False):
            image = saved_bytes(model, lambda x=images: model.encode_image(x), images)
            text = saved_bytes(model, lambda x=ids: model.encode_text(x), images)
        measured.append((image, text))
    (image_2, text_2), (image_4, text_4) = measured
    return (image_4 - image_2) / 2, (text_4 - text_2) / 2


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
@pytest.mark.parametrize("attention", [Attention.MATH, Attention.SDPA])
@pytest.mark.parametrize("checkpointing", ActivationCheckpointing)
@pytest.mark.parametrize("resolution", [64, 72])  # 72: maps are padded to windows
def test_saved_bytes_of_nano(
    resolution: int,
    checkpointing: ActivationCheckpointing,
    attention: Attention,
    precision: Precision,
) -> None:
    architecture = with_attention(PRESETS["coswin-nano"], attention)
    image, text = saved_per_sample(architecture, resolution, checkpointing, precision)
    image_formula, text_formula = units_of(architecture, resolution, checkpointing, precision)
    assert kept_bytes(image_formula) == pytest.approx(image, rel=1e-3)
    assert kept_bytes(text_formula) == pytest.approx(text, rel=1e-3)


@pytest.mark.parametrize("checkpointing", ActivationCheckpointing)
def test_saved_bytes_of_tiny(checkpointing: ActivationCheckpointing) -> None:
    architecture = with_attention(PRESETS["coswin-t"], Attention.MATH)
    image, _ = saved_per_sample(architecture, 224, checkpointing, Precision.FP32, device="meta")
    _, text = saved_per_sample(architecture, 32, checkpointing, Precision.FP32)
    image_formula, text_formula = units_of(architecture, 224, checkpointing, Precision.FP32)
    assert kept_bytes(image_formula) == pytest.approx(image, rel=1e-3)
    assert kept_bytes(text_formula) == pytest.approx(text, rel=1e-3)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations make, while they live."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._seen:
                storage = tensor.untyped_storage()
                self._seen.add(storage)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._free, storage.nbytes())
        return result

    def _free(self, size: int) -> None:
        self.live -= size


def backward_peak(
    architecture: Architecture, checkpointing: ActivationCheckpointing, batch: int
) -> int:
    with torch.device("meta"):
        model = TwoTower(architecture, checkpointing=checkpointing).train()
        images = torch.empty(batch, 3, 224, 224)
        model.encode_image(images[:1])  # fills the caches of window indices
        with LiveBytes([*model.parameters(), images]) as memory:
            embeddings = model.encode_image(images)
            memory.peak = memory.live
            embeddings.sum().backward()
    return memory.peak


@pytest.mark.parametrize("checkpointing", ActivationCheckpointing)
def test_peak_of_the_backward_pass_of_h(checkpointing: ActivationCheckpointing) -> None:
    """Large batches, so that the gradients of the weights do not decide where the peak is."""
    architecture = with_attention(PRESETS["coswin-h"], Attention.MATH)
    small, large = (backward_peak(architecture, checkpointing, batch) for batch in (512, 1024))
    units, _ = units_of(architecture, 224, checkpointing, Precision.FP32)
    assert peak_bytes(units) == pytest.approx((large - small) / 512, rel=0.01)


def test_fused_attention_keeps_no_scores() -> None:
    """Its bytes grow with tokens, not with tokens times window area."""
    architecture = PRESETS["coswin-h"]

    def per_token(attention: Attention, resolution: int, window: int) -> float:
        units = image_units(
            architecture,
            resolution=resolution,
            window=window,
            checkpointing=ActivationCheckpointing.NONE,
            numbers=numerics(Precision.BF16, attention, cuda=True),
        )
        return kept_bytes(units) / resolution**2

    growth = per_token(Attention.SDPA, 512, 16) / per_token(Attention.SDPA, 224, 7)
    assert growth == pytest.approx(1, abs=0.05)
    assert per_token(Attention.MATH, 512, 16) > 1.5 * per_token(Attention.SDPA, 512, 16)


def test_peak_is_at_least_what_is_kept() -> None:
    units = [Unit(kept=5, working=1), Unit(kept=1, working=10), Unit(kept=3, working=0)]
    assert kept_bytes(units) == 9
    assert peak_bytes(units) == 16

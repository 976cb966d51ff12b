"""Parameters and FLOPs equal what torch counts on the models themselves."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from florence.config import PRESETS, ActivationCheckpointing, Architecture, Attention, Embedding
from florence.models.two_tower import TwoTower
from florence.planner.sizes import forward_macs, parameters, recomputed_macs, training_flops


def changed(architecture: Architecture, **image: object) -> Architecture:
    """The architecture with some sizes of its image tower changed."""
    return architecture.model_copy(update={"image": architecture.image.model_copy(update=image)})


def counted_macs(architecture: Architecture, resolution: int, window: int | None) -> list[int]:
    """MACs of one sample through each tower, counted by torch on tensors without memory."""
    architecture = changed(architecture, attention=Attention.MATH)
    with torch.device("meta"):
        model = TwoTower(architecture, window=window).eval()
        inputs = (
            torch.empty(1, 3, resolution, resolution),
            torch.zeros(1, architecture.text.context, dtype=torch.int64),
        )
    counts = []
    for encode, value in zip((model.image, model.text), inputs, strict=True):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            encode(value)
        counts.append(counter.get_total_flops() // 2)
    return counts


@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_are_those_of_the_model(preset: str, window: int | None) -> None:
    with torch.device("meta"):
        model = TwoTower(PRESETS[preset], window=window)
    counts = parameters(PRESETS[preset], window=window)
    assert counts.image == sum(p.numel() for p in model.image.parameters())
    assert counts.text == sum(p.numel() for p in model.text.parameters())
    assert counts.total == sum(p.numel() for p in model.parameters())


def test_parameters_of_patch_merging_and_other_sizes() -> None:
    architecture = changed(PRESETS["coswin-nano"], embedding=Embedding.SWIN, mlp_ratio=3)
    with torch.device("meta"):
        model = TwoTower(architecture)
    assert parameters(architecture).total == sum(p.numel() for p in model.parameters())


def test_h_has_the_papers_893m_parameters() -> None:
    counts = parameters(PRESETS["coswin-h"])
    assert counts.total == pytest.approx(893e6, rel=0.005)
    assert counts.image == pytest.approx(637e6, rel=0.005)
    assert counts.text == pytest.approx(256e6, rel=0.005)


@pytest.mark.parametrize(
    ("preset", "resolution", "window"),
    [
        ("coswin-nano", 64, None),
        ("coswin-nano", 72, None),  # maps are padded to windows
        ("coswin-nano", 77, 5),  # odd sides
        ("coswin-t", 224, None),
        ("coswin-t", 384, 12),
        ("coswin-h", 224, None),
    ],
)
def test_macs_are_those_torch_counts(preset: str, resolution: int, window: int | None) -> None:
    macs = forward_macs(PRESETS[preset], resolution=resolution, window=window)
    assert [macs.image, macs.text] == counted_macs(PRESETS[preset], resolution, window)


@pytest.mark.parametrize("resolution", [64, 70])
def test_macs_of_patch_merging(resolution: int) -> None:
    architecture = changed(PRESETS["coswin-nano"], embedding=Embedding.SWIN)
    macs = forward_macs(architecture, resolution=resolution)
    assert macs.image == counted_macs(architecture, resolution, None)[0]


def test_a_training_step_is_three_forward_passes() -> None:
    """But for the gradient of the images, which nobody needs."""
    architecture = changed(PRESETS["coswin-nano"], attention=Attention.MATH)
    with torch.device("meta"):
        model = TwoTower(architecture)
        images, ids = torch.empty(1, 3, 64, 64), torch.zeros(1, 77, dtype=torch.int64)
        images.requires_grad_()
        with FlopCounterMode(display=False) as counter:
            u, v, _ = model(images, ids)
            assert u is not None
            assert v is not None
            (u.sum() + v.sum()).backward()
    assert counter.get_total_flops() == training_flops(architecture, resolution=64).total


@pytest.mark.parametrize("resolution", [64, 72])
@pytest.mark.parametrize("checkpointing", ActivationCheckpointing)
def test_recomputation_is_what_the_backward_pass_repeats(
    checkpointing: ActivationCheckpointing, resolution: int
) -> None:
    architecture = changed(PRESETS["coswin-nano"], attention=Attention.MATH)
    totals = []
    for kind in (ActivationCheckpointing.NONE, checkpointing):
        with torch.device("meta"):
            model = TwoTower(architecture, checkpointing=kind).train()
            images, ids = torch.empty(1, 3, resolution, resolution), torch.zeros(1, 77).long()
            with FlopCounterMode(display=False) as counter:
                u, v, _ = model(images, ids)
                assert u is not None
                assert v is not None
                (u.sum() + v.sum()).backward()
        totals.append(counter.get_total_flops())
    repeated = recomputed_macs(architecture, checkpointing, resolution=resolution)
    assert totals[1] - totals[0] == 2 * repeated

"""The planner's counts against a model whose parameters, operations and activations are counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from florence.config import Architecture
from florence.distributed.parameter_rules import apply_rules
from florence.planner import GPUS, StageRequest, estimate_job
from florence.planner.activations import kept_bytes
from florence.tasks.detection import deformable
from florence.tasks.detection.compiled_ops import compiled_op
from florence.tasks.detection.cost import (
    DetectionCost,
    classes_of,
    head_units,
    levels,
    planned_side,
)
from florence.tasks.detection.detector import Detector, build_detector
from florence.tasks.detection.settings import Detection
from florence.tasks.detection.task import DetectionTask
from tests.florence.tasks.detection.running import context
from tests.florence.tasks.finetune.running import MODEL

ARCHITECTURE: Architecture = MODEL.architecture()
COST = DetectionCost()


def made(**changes: Any) -> Detection:
    fields: dict[str, Any] = {
        "data": "x",
        "steps": 1,
        "batchSize": 8,
        "resolution": 64,
        "classes": 3,
        "head": {"channels": 16, "blocks": 2, "groups": 4},
        "boxes": {"shortSideMin": 64, "shortSideMax": 64, "maxSide": 96},
    }
    return Detection.model_validate({**fields, **changes})


def model_of(settings: Detection) -> Detector:
    return build_detector(
        ARCHITECTURE,
        settings.shape(classes_of(settings)),
        seed=0,
        window=settings.window or ARCHITECTURE.image.window,
        frozen_tower=settings.frozen_tower,
        texts=settings.class_agnostic,
    )


VARIANTS: list[dict[str, Any]] = [
    {},
    {"head": {"channels": 32, "blocks": 1, "finestStride": 4, "coarsestStride": 64}},
    {"head": {"channels": 16, "blocks": 0, "normalisation": "none"}},
    {"classAgnostic": True, "frozenTower": True},
    {"frozenStages": 2},
    {"frozenStages": 4, "window": 2},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_parameters_are_those_of_the_model(changes: dict[str, Any], tmp_path: Any) -> None:
    settings = made(**changes)
    model = model_of(settings)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert COST.parameters(ARCHITECTURE, settings).total == counted
    rules = DetectionTask(settings, context(tmp_path), None).rules(model)
    training = apply_rules(model, rules, settings.optimizer)
    trained = sum(p.numel() for name, p in model.named_parameters() if not training[name].frozen)
    assert COST.trained_parameters(ARCHITECTURE, settings) == trained


@pytest.mark.parametrize("changes", VARIANTS[:4])
def test_operations_are_those_that_torch_counts(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By deformable convolution in plain torch: the compiled operator's are not counted."""
    monkeypatch.setattr(deformable, "operator_on", lambda device: None)
    settings = made(**changes)
    side = planned_side(settings)
    with FlopCounterMode(display=False) as counter:
        model_of(settings)([torch.zeros(1, 3, side, side)])
    assert 2 * COST.forward_macs(ARCHITECTURE, settings).total == counter.get_total_flops()


@pytest.mark.parametrize("normalisation", ["group", "none"])
def test_the_head_keeps_as_many_bytes_as_are_counted(
    normalisation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the compiled operator, as on a GPU: there memory is planned."""
    operator = compiled_op("deform_conv2d")
    if operator is None:
        pytest.skip("torchvision's operator does not load")
    monkeypatch.setattr(deformable, "operator_on", lambda device: operator)
    head = {"channels": 64, "blocks": 2, "normalisation": normalisation}
    settings = made(head=head, resolution=128, boxes={"maxSide": 192})
    model = model_of(settings)
    side = planned_side(settings)
    with torch.no_grad():
        maps = model.maps(torch.zeros(1, 3, side, side))
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    known |= {x.untyped_storage().data_ptr() for x in maps}
    saved: dict[int, int] = {}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model.head(maps)
    assert outputs.logits.shape[1] == sum(level.cells for level in levels(settings))
    maps_bytes = sum(x.numel() * x.element_size() for x in maps[1:])
    counted = kept_bytes(head_units(ARCHITECTURE, settings)) - maps_bytes
    assert counted == pytest.approx(sum(saved.values()), rel=0.05)


def test_the_planned_square_has_the_area_of_a_landscape_picture() -> None:
    assert planned_side(made(resolution=800, boxes={"maxSide": 1333})) == 928
    assert planned_side(made(resolution=800, boxes={"maxSide": 400, "shortSideMin": 48})) == 384


def test_the_published_pretraining_is_reproduced() -> None:
    """FLOD-9M, 12 epochs at 128 on 128 A100: 840,683 steps of 0.72 s are 7 days (paper, 3.5)."""
    images, boxes = 8_967_286, 33_408_237
    assert boxes / images == pytest.approx(3.73, abs=0.005)
    assert 12 * images // 128 == 840_683
    settings = made(steps=840_683, batchSize=128, resolution=800, precision="bf16")
    request = StageRequest(
        name="boxes",
        settings=settings,
        cost=COST,
        processes=128,
        gpu=GPUS["A100-40GB"],
    )
    estimate = estimate_job(ARCHITECTURE, [request], days=7)
    pace = estimate.stages[0].pace
    assert pace is not None
    assert pace.step_seconds == pytest.approx(0.72, abs=0.005)
    assert pace.samples_per_second == pytest.approx(178, abs=0.5)

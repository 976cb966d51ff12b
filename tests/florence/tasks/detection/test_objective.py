"""The loss of a batch against sums that are written out, and what may not change it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from florence.config.model import architecture_of
from florence.distributed.accumulation import accumulate_gradients
from florence.distributed.world import World
from florence.tasks.detection.anchors import anchors, levels_of
from florence.tasks.detection.assign import assign
from florence.tasks.detection.batch import DetectionBatch, Target
from florence.tasks.detection.box_coder import decode, encode
from florence.tasks.detection.detector import Detector, build_detector
from florence.tasks.detection.losses import centerness
from florence.tasks.detection.objective import DetectionObjective
from florence.tasks.detection.settings import DetectionLoss
from florence.tasks.detection.shape import DetectorShape
from tests.florence.tasks.detection.scenes import batch_of, scene

SHAPE = DetectorShape(classes=3, channels=16, blocks=1, groups=4, coarsest=64)
HALF = (0.5, 0.5, 0.5)
QUARTER = (0.25, 0.25, 0.25)


def objective(**changes: Any) -> DetectionObjective:
    return DetectionObjective(
        strides=SHAPE.strides,
        mean=HALF,
        std=QUARTER,
        weights=DetectionLoss(),
        world=World(),
        **changes,
    )


def detector(shape: DetectorShape = SHAPE, **options: Any) -> Detector:
    return build_detector(architecture_of("coswin-nano"), shape, seed=0, window=4, **options)


def loss_of(model: Detector, batch: DetectionBatch, made: DetectionObjective | None = None) -> Any:
    made = made or objective()
    return made.loss(made.outputs(model, batch), batch, made.prepare(batch))


def scenes(*numbers: int, height: int = 64, width: int = 64) -> DetectionBatch:
    return batch_of([scene(number, height, width) for number in numbers])


def empty_target() -> Target:
    return Target.of(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def with_target(batch: DetectionBatch, row: int, **changes: Any) -> DetectionBatch:
    targets = list(batch.targets)
    targets[row] = replace(targets[row], **changes)
    return replace(batch, targets=tuple(targets))


def test_the_loss_is_the_sum_of_torchvisions_parts() -> None:
    model, batch = detector().eval(), scenes(1, 2, 5)
    logits, deltas, central = objective().outputs(model, batch)
    levels = levels_of(64, 64, SHAPE.strides)
    every, found = anchors(levels), assign(levels, [t.boxes for t in batch.targets])
    focal = box = cross = central_sum = count = torch.zeros(())
    for row, target in enumerate(batch.targets):
        positive = found[row] >= 0
        objects = found[row][positive]
        hot = torch.zeros(len(every), 3)
        hot[positive, target.labels[objects]] = 1
        focal = focal + torchvision.ops.sigmoid_focal_loss(logits[row], hot, reduction="sum")
        ctr = centerness(every[positive], target.boxes[objects])
        boxes = decode(deltas[row][positive], every[positive])
        giou = torchvision.ops.generalized_box_iou_loss(boxes, target.boxes[objects])
        box = box + (giou * ctr).sum()
        cross = cross + torch.nn.functional.binary_cross_entropy_with_logits(
            central[row][positive], ctr, reduction="sum"
        )
        central_sum, count = central_sum + ctr.sum(), count + positive.sum()
    expected = focal / count + 2 * box / central_sum + cross / count
    found_loss = loss_of(model, batch)
    torch.testing.assert_close(found_loss.value, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found_loss.metrics["train/box_loss"], box / central_sum)


def test_chunks_give_the_loss_and_gradient_of_the_whole() -> None:
    batch = batch_of([scene(1, 64, 64), scene(2, 32, 64), scene(3, 64, 64), scene(4, 40, 50)])
    results = []
    for chunks in (1, 2, 4):
        model = detector()
        loss = accumulate_gradients(
            objective(),
            model,
            batch,
            chunks=chunks,
            backward=lambda value: value.backward(),
            synchronise=lambda last: torch.enable_grad(),
            mean_over_ranks=lambda value: value.detach(),
        )
        used = [p for name, p in model.named_parameters() if "image.norm" not in name]
        grads = [p.grad for p in used if p.grad is not None]
        results.append([loss.value, *grads])
    for other in results[1:]:
        for whole, part in zip(results[0], other, strict=True):
            torch.testing.assert_close(part, whole, rtol=1e-3, atol=1e-5)


def test_images_without_boxes_have_a_finite_loss_that_reaches_every_parameter() -> None:
    model = detector()
    batch = batch_of([(scene(0)[0], empty_target()), (scene(1)[0], empty_target())])
    loss = loss_of(model, batch)
    loss.value.backward()
    assert loss.value.isfinite()
    assert loss.metrics["train/box_loss"] == 0
    for name, parameter in model.named_parameters():
        if not name.startswith(("image.norm", "image.projection")):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_a_crowd_is_neither_object_nor_background() -> None:
    """What is said of its class within it does not matter; what is said of others does."""
    model, batch = detector().eval(), scenes(2)
    made = objective()
    region = batch.targets[0].boxes[:1]
    crowd = with_target(
        batch, 0, crowd=torch.tensor([True, *[False] * (len(batch.targets[0]) - 1)])
    )
    label = int(crowd.targets[0].labels[0])
    outputs = made.outputs(model, crowd)
    prepared = made.prepare(crowd)
    before = made.loss(outputs, crowd, prepared).value
    levels = levels_of(64, 64, SHAPE.strides)
    every = anchors(levels)
    middle = (every[:, :2] + every[:, 2:]) / 2
    inside = ((middle > region[0, :2]) & (middle < region[0, 2:])).all(dim=1)
    free = prepared.assigned[crowd.targets[0]].matched < 0
    changed = outputs[0].clone()
    changed[0, inside & free, label] = 9.0
    same = made.loss((changed, *outputs[1:]), crowd, prepared).value
    torch.testing.assert_close(same, before)
    changed[0, inside & free, (label + 1) % 3] = 9.0
    assert made.loss((changed, *outputs[1:]), crowd, prepared).value > before + 0.1


def test_nothing_is_learnt_about_classes_that_were_not_looked_for() -> None:
    model, batch = detector(), scenes(0)
    label = int(batch.targets[0].labels[0])
    other = (label + 1) % 3
    looked_for = torch.ones(3, dtype=torch.bool)
    looked_for[other] = False
    loss_of(model, with_target(batch, 0, annotated=looked_for)).value.backward()
    gradient = model.head.anchors.logits.bias.grad
    assert gradient is not None
    assert gradient[other] == 0
    assert (gradient[[n for n in range(3) if n != other]] != 0).all()


def test_a_box_counts_as_much_as_its_score() -> None:
    """With one object, loss and normaliser shrink alike: only the background weighs more."""
    model, batch = detector().eval(), scenes(0)
    half = with_target(batch, 0, scores=torch.full((len(batch.targets[0]),), 0.5))
    whole, part = loss_of(model, batch), loss_of(model, half)
    for name in ("train/box_loss", "train/centerness_loss"):
        torch.testing.assert_close(part.metrics[name], whole.metrics[name])
    assert part.metrics["train/class_loss"] > whole.metrics["train/class_loss"]
    both = batch_of([scene(0, 64, 64), scene(2, 64, 64)])
    none = with_target(both, 1, scores=torch.zeros(len(both.targets[1])))
    alone = loss_of(model, batch)
    ignoring = loss_of(model, none)
    torch.testing.assert_close(ignoring.metrics["train/box_loss"], alone.metrics["train/box_loss"])


def test_without_classes_permuting_them_leaves_the_loss_unchanged() -> None:
    model = detector(replace(SHAPE, classes=1)).eval()
    batch = scenes(1, 2, 5)
    made = objective(class_agnostic=True)
    permuted = replace(
        batch, targets=tuple(replace(t, labels=(t.labels + 1) % 3) for t in batch.targets)
    )
    torch.testing.assert_close(
        loss_of(model, batch, made).value, loss_of(model, permuted, made).value
    )


def test_permuting_images_leaves_the_loss_unchanged() -> None:
    model = detector().eval()
    forth = loss_of(model, scenes(1, 2, 3, 4)).value
    back = loss_of(model, scenes(4, 2, 3, 1)).value
    torch.testing.assert_close(forth, back, rtol=1e-5, atol=1e-6)


def test_losses_do_not_depend_on_where_a_box_is_decoded() -> None:
    """The released code decodes with anchors of another order: GIoU does not see the difference.

    It is unchanged when both boxes are moved and stretched alike, so any anchor serves that both
    are decoded from.
    """
    generator = torch.Generator().manual_seed(0)
    deltas = torch.randn(2, 20, 4, generator=generator)
    every = anchors(levels_of(64, 64, (8,)))
    mine, other = every[:20], every[20:40] * 3
    giou = torchvision.ops.generalized_box_iou_loss
    right = giou(decode(deltas[0], mine), decode(deltas[1], mine))
    wrong = giou(decode(deltas[0], other), decode(deltas[1], other))
    torch.testing.assert_close(right, wrong, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(decode(deltas[0], mine), decode(deltas[0], other))
    back = encode(decode(deltas[0], mine), mine)
    torch.testing.assert_close(back, deltas[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("known", [True, False])
def test_attributes_are_learnt_where_they_are_known(known: bool) -> None:
    shape = replace(SHAPE, attributes=("big", "small"))
    model = detector(shape)
    batch = scenes(1, 2)
    said = tuple(
        replace(t, attributes=torch.tensor([[True, False]]).repeat(len(t), 1) if known else None)
        for t in batch.targets
    )
    loss = loss_of(model, replace(batch, targets=said), objective(attributes=2))
    loss.value.backward()
    gradient: Tensor | None = model.head.attributes.fc.bias.grad
    assert gradient is not None
    assert bool((gradient != 0).all()) is known
    if known:
        assert gradient[0] < 0 < gradient[1]

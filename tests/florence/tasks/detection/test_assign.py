"""ATSS against an implementation that follows the paper's algorithm line by line."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from florence.tasks.detection.anchors import Level, anchors, levels_of
from florence.tasks.detection.assign import assign

STRIDES = (8, 16, 32, 64, 128)


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    sizes = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (sizes - width * height)


def by_the_paper(levels: tuple[Level, ...], boxes: Tensor) -> list[int]:
    every = anchors(levels).tolist()
    middle = [((a[0] + a[2]) / 2, (a[1] + a[3]) / 2) for a in every]
    best = [(-1.0, -1)] * len(every)
    for number, box in enumerate(boxes.tolist()):
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        candidates: list[int] = []
        start = 0
        for level in levels:
            own = range(start, start + level.cells)
            start += level.cells
            near = sorted(own, key=lambda a: math.dist(middle[a], (x, y)))
            candidates += near[:9]
        ious = [overlap(every[a], box) for a in candidates]
        spread = statistics.stdev(ious) if len(ious) > 1 else 0.0
        threshold = statistics.mean(ious) + spread
        for anchor, iou in zip(candidates, ious, strict=True):
            px, py = middle[anchor]
            inside = min(px - box[0], py - box[1], box[2] - px, box[3] - py) > 0.01
            if iou >= threshold and inside and iou > best[anchor][0]:
                best[anchor] = (iou, number)
    return [number for _, number in best]


def random_boxes(count: int, height: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    middle = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    half = torch.exp(torch.rand(count, 2, generator=generator) * 3 + 1)
    corners = torch.cat([middle - half, middle + half], dim=1)
    return corners.clamp(min=0).minimum(torch.tensor([width, height, width, height]))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [(96, 160), (256, 32), (32, 32), (224, 224)])
def test_anchors_are_assigned_as_the_paper_says(seed: int, size: tuple[int, int]) -> None:
    levels = levels_of(*size, STRIDES)
    boxes = [random_boxes(count, *size, seed=seed) for count in (4, 0, 1)]
    found = assign(levels, boxes)
    for row, own in zip(found, boxes, strict=True):
        assert row.tolist() == by_the_paper(levels, own)


def test_some_anchors_are_assigned() -> None:
    boxes = [random_boxes(5, 96, 160, seed=seed) for seed in range(3)]
    assert ((assign(levels_of(96, 160, STRIDES), boxes) >= 0).sum(dim=1) > 0).all()


def test_an_image_without_objects_is_all_background() -> None:
    levels = levels_of(64, 64, STRIDES)
    assert (assign(levels, [torch.zeros(0, 4)]) == -1).all()


def test_a_single_candidate_is_taken_where_its_centre_is_inside() -> None:
    levels = (Level(1, 1, 64),)
    inside, outside = torch.tensor([[10.0, 10.0, 40.0, 40.0]]), torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    assert assign(levels, [inside, outside]).tolist() == [[0], [-1]]


def test_an_image_is_assigned_alike_whatever_else_is_in_the_batch() -> None:
    levels = levels_of(96, 96, STRIDES)
    boxes = [random_boxes(count, 96, 96, seed=count) for count in (3, 0, 7)]
    together = assign(levels, boxes)
    for row, own in zip(together, boxes, strict=True):
        assert torch.equal(assign(levels, [own])[0], row)

import pytest
import torch
import torchvision
from torch import Tensor

from florence.tasks.detection import boxes as geometry


def random_boxes(count: int, seed: int = 0, side: float = 100) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * side
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def test_overlaps_are_those_of_torchvision() -> None:
    first, second = random_boxes(20), random_boxes(30, seed=1)
    torch.testing.assert_close(
        geometry.pairwise_iou(first, second), torchvision.ops.box_iou(first, second)
    )
    torch.testing.assert_close(
        geometry.generalized_iou(first[:, None], second),
        torchvision.ops.generalized_box_iou(first, second),
    )


def test_an_overlap_is_the_fraction_of_points_that_both_hold() -> None:
    first, second = (
        random_boxes(6, seed=2, side=16).round(),
        random_boxes(6, seed=3, side=16).round(),
    )
    middle = torch.arange(16) + 0.5

    def cells(box: Tensor) -> Tensor:
        inside_x = (middle > box[0]) & (middle < box[2])
        inside_y = (middle > box[1]) & (middle < box[3])
        return inside_y[:, None] & inside_x

    for one, other, iou in zip(first, second, geometry.iou(first, second), strict=True):
        both, either = cells(one) & cells(other), cells(one) | cells(other)
        expected = both.sum() / either.sum() if either.any() else torch.tensor(0.0)
        assert iou == pytest.approx(expected.item())


def test_boxes_of_no_area_overlap_nothing() -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert geometry.iou(point, point).tolist() == [0]


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (geometry.to_xywh, geometry.from_xywh),
        (geometry.to_cxcywh, geometry.from_cxcywh),
        (lambda b: geometry.mirror(b, 100), lambda b: geometry.mirror(b, 100)),
    ],
)
def test_other_forms_lead_back(there, back) -> None:  # type: ignore[no-untyped-def]
    boxes = random_boxes(20)
    torch.testing.assert_close(back(there(boxes)), boxes)
    assert not torch.equal(there(boxes), boxes)


def test_forms_are_those_of_torchvision() -> None:
    boxes = random_boxes(20)
    convert = torchvision.ops.box_convert
    torch.testing.assert_close(geometry.to_xywh(boxes), convert(boxes, "xyxy", "xywh"))
    torch.testing.assert_close(geometry.to_cxcywh(boxes), convert(boxes, "xyxy", "cxcywh"))


def test_clipping_is_that_of_torchvision() -> None:
    boxes = random_boxes(20) * 2 - 50
    expected = torchvision.ops.clip_boxes_to_image(boxes, (40, 70))
    torch.testing.assert_close(geometry.clip(boxes, 40, 70), expected)


def test_coverage_is_the_part_of_a_box_in_a_region() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
    regions = torch.tensor([[5.0, 0.0, 50.0, 50.0]])
    assert geometry.coverage(boxes, regions).flatten().tolist() == [0.5, 1.0]

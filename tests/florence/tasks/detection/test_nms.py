from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor

from florence.tasks.detection import nms as suppression
from florence.tasks.detection.boxes import iou, pairwise_iou

Nms = Callable[[Tensor, Tensor, float], Tensor]


def clustered(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    middle = torch.rand(max(count // 5, 1), 2, generator=generator) * 200
    which = torch.randint(0, len(middle), (count,), generator=generator)
    corner = middle[which] + torch.randn(count, 2, generator=generator) * 4
    boxes = torch.cat([corner, corner + 20 + 10 * torch.rand(count, 2, generator=generator)], 1)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return boxes, torch.rand(count, generator=generator), labels


def one_by_one(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    for number in scores.argsort(descending=True, stable=True).tolist():
        if all(iou(boxes[number], boxes[other]) <= threshold for other in kept):
            kept.append(number)
    return kept


@pytest.mark.parametrize("nms", [suppression.nms, suppression.plain_nms])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("count", [0, 1, 40, 120])
def test_those_stay_that_overlap_no_better_one_that_stays(
    nms: Nms, threshold: float, count: int
) -> None:
    boxes, scores, _ = clustered(count, seed=count)
    assert nms(boxes, scores, threshold).tolist() == one_by_one(boxes, scores, threshold)


@pytest.mark.parametrize("seed", range(3))
def test_more_boxes_than_a_block_are_those_of_torchvision(seed: int) -> None:
    boxes, scores, _ = clustered(3 * suppression.BLOCK + 7, seed)
    expected = torchvision.ops.nms(boxes, scores, 0.6)
    assert torch.equal(suppression.plain_nms(boxes, scores, 0.6), expected)


@pytest.mark.parametrize("nms", [suppression.nms, suppression.plain_nms])
def test_of_equal_scores_the_first_is_better(nms: Nms) -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(50, 1)
    assert nms(boxes, torch.ones(50), 0.5).tolist() == [0]


def test_classes_do_not_touch_each_other() -> None:
    boxes, scores, labels = clustered(150, seed=1)
    expected: list[int] = []
    for label in range(3):
        own = (labels == label).nonzero().squeeze(1)
        kept = one_by_one(boxes[own], scores[own], 0.6)
        expected += own[torch.tensor(kept, dtype=torch.int64)].tolist()
    found = suppression.class_nms(boxes, scores, labels, 0.6)
    assert sorted(found.tolist()) == sorted(expected)
    assert scores[found].tolist() == sorted(scores[found].tolist(), reverse=True)


def test_many_classes_far_from_the_origin_stay_exact() -> None:
    boxes, scores, _ = clustered(60, seed=2)
    alone = suppression.nms(boxes, scores, 0.6)
    labels = torch.full((60,), 25_000)
    assert torch.equal(suppression.class_nms(boxes - 500, scores, labels, 0.6), alone)


def test_soft_scores_are_products_of_decays_of_better_ones() -> None:
    boxes, scores, labels = clustered(30, seed=3)
    order, values = suppression.soft_nms(boxes, scores, labels, sigma=0.5, least=0.0)
    for place, (number, value) in enumerate(zip(order.tolist(), values.tolist(), strict=True)):
        expected = scores[number].item()
        for better in order[:place].tolist():
            if labels[better] == labels[number]:
                expected *= torch.exp(-(iou(boxes[better], boxes[number]) ** 2) / 0.5).item()
        assert value == pytest.approx(expected, rel=1e-4)
    assert values.tolist() == sorted(values.tolist(), reverse=True)
    assert len(set(order.tolist())) == 30


def test_soft_scores_below_the_least_are_left_out() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(2, 1)
    labels = torch.zeros(2, dtype=torch.int64)
    order, _ = suppression.soft_nms(boxes, torch.tensor([0.9, 0.5]), labels, least=0.1)
    assert order.tolist() == [0]


def test_votes_are_weighted_means_of_overlapping_boxes_of_the_class() -> None:
    boxes, scores, labels = clustered(40, seed=4)
    kept = suppression.class_nms(boxes, scores, labels, 0.5)
    voted = suppression.vote(boxes[kept], labels[kept], boxes, scores, labels, 0.6)
    for row, number in zip(voted, kept.tolist(), strict=True):
        near = (pairwise_iou(boxes[number][None], boxes)[0] >= 0.6) & (labels == labels[number])
        expected = (boxes[near] * scores[near, None]).sum(dim=0) / scores[near].sum()
        torch.testing.assert_close(row, expected)

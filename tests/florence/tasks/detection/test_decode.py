from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from florence.config.detection import Inference
from florence.tasks.detection.anchors import anchors, levels_of
from florence.tasks.detection.box_coder import encode
from florence.tasks.detection.boxes import pairwise_iou
from florence.tasks.detection.decode import Detections, candidates, suppressed

LEVELS = levels_of(64, 96, (8, 16, 32))
EVERY = anchors(LEVELS)


def raw(marks: dict[int, tuple[int, float, float]]) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions that say nothing but at some anchors: class, its logit, centerness logit."""
    logits = torch.full((len(EVERY), 3), -20.0)
    central = torch.full((len(EVERY),), -20.0)
    for anchor, (label, logit, ctr) in marks.items():
        logits[anchor, label], central[anchor] = logit, ctr
    return logits, torch.zeros(len(EVERY), 4), central


def found(marks: dict[int, tuple[int, float, float]], **changes: Any) -> Detections:
    return candidates(*raw(marks), LEVELS, Inference(**changes))


def test_a_score_is_the_product_and_the_threshold_is_on_the_class_alone() -> None:
    result = found({5: (1, 2.0, -3.0), 9: (2, -3.2, 9.0)})
    torch.testing.assert_close(
        result.scores, (torch.tensor([2.0]).sigmoid() * torch.tensor([-3.0]).sigmoid())
    )
    assert result.labels.tolist() == [1]
    torch.testing.assert_close(result.boxes, EVERY[5:6])


def test_only_the_best_of_each_level_are_looked_at() -> None:
    marks = {anchor: (0, anchor / 30, 5.0) for anchor in range(len(EVERY))}
    result = found(marks, candidates=4)
    assert len(result.scores) == 4 * len(LEVELS)
    first = LEVELS[0].cells
    best = EVERY[[first - 1, first - 2, first - 3, first - 4]]
    torch.testing.assert_close(result.boxes[:4], best)


def test_boxes_are_decoded_from_the_anchors_of_their_own_level() -> None:
    """Predictions lie level by level, row by row, image by image, and so do anchors."""
    logits, deltas, central = raw({110: (0, 5.0, 5.0)})
    wanted = torch.tensor([[3.0, 4.0, 33.0, 50.0]])
    deltas[110] = encode(wanted, EVERY[110:111])[0]
    result = candidates(logits, deltas, central, LEVELS, Inference())
    torch.testing.assert_close(result.boxes, wanted, rtol=1e-4, atol=1e-3)


def some(count: int, seed: int = 0) -> Detections:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 30], dim=1)
    labels = torch.randint(0, 2, (count,), generator=generator)
    return Detections(boxes, torch.rand(count, generator=generator), labels)


def test_boxes_that_stay_do_not_overlap_others_of_their_class() -> None:
    result = suppressed(some(80), Inference(nms_iou=0.4))
    overlap = pairwise_iou(result.boxes, result.boxes).fill_diagonal_(0)
    assert (overlap[result.labels[:, None] == result.labels] <= 0.4).all()
    assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)


def test_at_most_so_many_boxes_are_answered() -> None:
    assert len(suppressed(some(80), Inference(nms_iou=1, max_detections=7)).scores) == 7


def test_soft_suppression_keeps_more_boxes_with_lower_scores() -> None:
    hard, soft = (suppressed(some(60), Inference(soft_nms_sigma=s)) for s in (None, 0.5))
    assert len(soft.scores) > len(hard.scores)
    assert soft.scores[0] == hard.scores[0]
    assert soft.scores.sum() < some(60).scores.sum()


def test_voting_moves_boxes_and_leaves_scores() -> None:
    plain, voted = (suppressed(some(60), Inference(voting_iou=v)) for v in (None, 0.5))
    assert torch.equal(plain.scores, voted.scores)
    assert not torch.equal(plain.boxes, voted.boxes)


def test_boxes_come_back_to_the_image_they_were_found_on() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 400.0]])
    result = Detections(boxes, torch.ones(1), torch.zeros(1, dtype=torch.int64))
    back = result.on_image(2.0, 0.5, 100, 50)
    assert back.boxes.tolist() == [[20.0, 10.0, 50.0, 100.0]]
    twice = result.mirrored(50).mirrored(50)
    torch.testing.assert_close(twice.boxes, boxes)

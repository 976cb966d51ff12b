import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from florence.tasks.detection import losses


def some(rows: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator) * 3
    return logits, torch.randint(-1, classes, (rows,), generator=generator)


def hot(labels: Tensor, classes: int) -> Tensor:
    return F.one_hot(labels.clamp(min=0), classes) * (labels >= 0)[:, None]


def test_focal_loss_is_that_of_torchvision() -> None:
    logits, labels = some(50, 7)
    expected = torchvision.ops.sigmoid_focal_loss(
        logits, hot(labels, 7).float(), alpha=0.25, gamma=2, reduction="sum"
    )
    torch.testing.assert_close(losses.focal_loss(logits, labels), expected)


def test_the_gradient_of_focal_loss_is_that_of_torchvision() -> None:
    logits, labels = some(50, 7)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    losses.focal_loss(ours, labels).backward()
    torchvision.ops.sigmoid_focal_loss(theirs, hot(labels, 7).float(), reduction="sum").backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_weights_and_ignored_terms_of_focal_loss() -> None:
    logits, labels = some(20, 5)
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(20, generator=generator)
    ignored = torch.rand(20, 5, generator=generator) < 0.3
    terms = torchvision.ops.sigmoid_focal_loss(logits, hot(labels, 5).float(), reduction="none")
    expected = (terms.masked_fill(ignored, 0) * weights[:, None]).sum()
    found = losses.focal_loss(logits, labels, weights=weights, ignored=ignored)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_extreme_logits_leave_losses_and_gradients_finite(extreme: float) -> None:
    logits = torch.full((3, 2), extreme, requires_grad=True)
    loss = losses.focal_loss(logits, torch.tensor([-1, 0, 1]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_giou_loss_is_that_of_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 30, 2, 2, generator=generator) * 50
    first, second = torch.cat([corners.amin(dim=2), corners.amax(dim=2)], dim=-1)
    weights = torch.rand(30, generator=generator)
    theirs = torchvision.ops.generalized_box_iou_loss(first, second)
    torch.testing.assert_close(
        losses.giou_loss(first, second, weights), (theirs * weights).sum(), rtol=1e-5, atol=1e-5
    )


def test_giou_loss_of_a_box_without_area_has_a_finite_gradient() -> None:
    box = torch.tensor([[1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    losses.giou_loss(box, torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.ones(1)).backward()
    assert box.grad is not None
    assert box.grad.isfinite().all()


def test_centerness_is_one_in_the_middle_and_falls_to_the_sides() -> None:
    boxes = torch.tensor([[0.0, 0.0, 8.0, 4.0]]).expand(3, 4)
    anchors = torch.tensor([[3.0, 1.0, 5.0, 3.0], [1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 0.0, 4.0]])
    expected = [1.0, (2 / 6) ** 0.5, 0.0]
    assert losses.centerness(anchors, boxes).tolist() == pytest.approx(expected)


def test_centerness_loss_is_a_weighted_cross_entropy() -> None:
    logits, targets = torch.tensor([0.3, -2.0]), torch.tensor([1.0, 0.25])
    weights = torch.tensor([1.0, 0.5])
    p = logits.sigmoid()
    closed = -(targets * p.log() + (1 - targets) * (1 - p).log()) * weights
    torch.testing.assert_close(losses.centerness_loss(logits, targets, weights), closed.sum())

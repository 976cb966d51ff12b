import pytest
import torch
import torchvision
from torch import Tensor

from florence.config.model import architecture_of
from florence.tasks.detection.anchors import anchors, levels_of
from florence.tasks.detection.detector import Detector, build_detector
from florence.tasks.detection.predictors import AttributePredictor, _pooled
from florence.tasks.detection.shape import DetectorShape

NANO = architecture_of("coswin-nano")
SMALL = DetectorShape(classes=3, channels=32, blocks=1)


def detector(shape: DetectorShape = SMALL, **options: bool) -> Detector:
    return build_detector(NANO, shape, seed=0, window=4, **options)


def images(count: int, height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, height, width, generator=generator)


@pytest.mark.parametrize("finest", [4, 8])
@pytest.mark.parametrize("coarsest", [32, 64, 128])
@pytest.mark.parametrize("size", [(64, 96), (32, 32), (160, 32)])
def test_there_is_a_prediction_for_every_anchor(
    finest: int, coarsest: int, size: tuple[int, int]
) -> None:
    shape = DetectorShape(classes=3, channels=32, blocks=1, finest=finest, coarsest=coarsest)
    logits, deltas, centerness = detector(shape).eval()([images(2, *size)])
    count = len(anchors(levels_of(*size, shape.strides)))
    assert logits.shape == (2, count, 3)
    assert deltas.shape == (2, count, 4)
    assert centerness.shape == (2, count)


def test_permuting_images_permutes_their_predictions() -> None:
    model, batch = detector().eval(), images(3)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        for found, plain in zip(model([batch[order]]), model([batch]), strict=True):
            torch.testing.assert_close(found, plain[order], rtol=1e-5, atol=1e-5)


def test_groups_of_images_are_predicted_as_if_they_were_alone() -> None:
    model = detector().eval()
    first, second = images(2), images(1, 32, 64, seed=1)
    with torch.no_grad():
        together = model([first, second])
        apart = [*model([first]), *model([second])]
    for found, wanted in zip(together, apart, strict=True):
        torch.testing.assert_close(found, wanted)


def test_classes_are_improbable_before_training() -> None:
    logits = detector().eval()([images(1)])[0]
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.003)


def test_a_frozen_tower_gets_no_gradient() -> None:
    model = detector(frozen_tower=True)
    sum(output.sum() for output in model([images(1)])).backward()
    assert all(p.grad is None for p in model.image.parameters())
    assert all(p.grad is not None for p in model.head.parameters())
    assert not model.image.training
    assert model.head.training


def test_the_same_seed_gives_the_same_detector() -> None:
    for (name, one), (_, other) in zip(
        detector().state_dict().items(), detector().state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name
        assert one.isfinite().all(), name


def test_a_region_is_the_mean_of_samples_within_it() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 6, 8, generator=generator)
    corners = torch.rand(7, 2, 2, generator=generator) * torch.tensor([256, 192])
    regions = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    expected = torchvision.ops.roi_align(
        x[None], [regions], 1, spatial_scale=1 / 32, sampling_ratio=4, aligned=True
    )
    torch.testing.assert_close(_pooled(x, regions), expected.flatten(1), rtol=1e-4, atol=1e-4)


def test_attributes_are_predicted_for_every_region_of_every_image() -> None:
    made = AttributePredictor(5, 11)
    made.reset_parameters(torch.Generator().manual_seed(0))
    regions = [torch.tensor([[0.0, 0.0, 32.0, 32.0]]).repeat(n, 1) for n in (2, 0, 3)]
    assert made(torch.randn(3, 5, 4, 4), regions).shape == (5, 11)

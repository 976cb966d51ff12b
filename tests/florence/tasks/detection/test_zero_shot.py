from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor

from florence.tasks.detection.decode import Detections
from florence.tasks.detection.looking import crops
from florence.tasks.detection.zero_shot import BoxClassifier, fused

MEAN, STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def half_red() -> Image.Image:
    """100 x 60 pixels: red on the left, blue on the right."""
    image = Image.new("RGB", (100, 60), "blue")
    image.paste("red", (0, 0, 50, 60))
    return image


def by_colour(pixels: Tensor) -> Tensor:
    """Embeds an image by its mean red and blue."""
    means = pixels.mean(dim=(2, 3))[:, [0, 2]]
    return means / means.norm(dim=1, keepdim=True)


def classifier() -> BoxClassifier:
    return BoxClassifier(
        encode=by_colour,
        classes=torch.eye(2),
        scale=20.0,
        resolution=16,
        mean=MEAN,
        std=STD,
    )


BOXES = torch.tensor([[5.0, 10.0, 35.0, 40.0], [60.0, 5.0, 95.0, 50.0]])


def test_boxes_are_classified_by_what_is_in_them() -> None:
    probabilities = classifier().probabilities(half_red(), BOXES, context=1.0)
    assert probabilities.argmax(dim=1).tolist() == [0, 1]
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    assert (probabilities.amax(dim=1) > 0.99).all()


def test_no_boxes_have_no_probabilities() -> None:
    assert classifier().probabilities(half_red(), BOXES[:0], context=1.0).shape == (0, 2)


def test_more_context_shows_more_around_a_box() -> None:
    box = torch.tensor([[30.0, 20.0, 48.0, 38.0]])

    def red(context: float) -> float:
        made = crops(half_red(), box, context=context, resolution=32, mean=MEAN, std=STD)
        return float(made[0, 0].mean())

    assert red(1.0) == pytest.approx(1, abs=0.02)
    assert red(3.0) < 0.8


def test_a_crop_keeps_proportions_and_lies_in_the_image() -> None:
    """A flat box: the square around it, not the box stretched."""
    image = Image.new("RGB", (100, 100), "black")
    image.paste("white", (40, 49, 60, 51))
    box = torch.tensor([[40.0, 49.0, 60.0, 51.0]])
    made = crops(image, box, context=1.0, resolution=20, mean=MEAN, std=STD)
    assert made.shape == (1, 3, 20, 20)
    assert float(made.mean()) == pytest.approx(0.1, abs=0.03)
    outside = torch.tensor([[95.0, 95.0, 300.0, 300.0], [50.0, 50.0, 50.0, 50.0]])
    assert crops(image, outside, context=2, resolution=8, mean=MEAN, std=STD).isfinite().all()


def test_the_score_is_the_root_of_objectness_times_probability() -> None:
    found = Detections(BOXES, torch.tensor([0.81, 0.25]), torch.zeros(2, dtype=torch.int64))
    result = fused(found, torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    expected = torch.tensor([0.81 * 0.25, 0.81 * 0.75, 0.25, 0.0]).sqrt()
    torch.testing.assert_close(result.scores, expected)
    assert result.labels.tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(result.boxes, BOXES[[0, 0, 1, 1]])

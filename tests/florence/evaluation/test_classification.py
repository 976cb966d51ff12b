"""A model with a head on labelled images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from florence.config import Evaluate
from florence.data.transforms import eval_transform
from florence.distributed.world import World
from florence.errors import ConfigurationError
from florence.evaluation.runner import evaluate_model
from tests.florence.evaluation.shapes import CLASSES, MEAN, SIZE, Head, card, with_head


def test_a_head_is_evaluated_on_labelled_images(data: Path, head: Head) -> None:
    report = evaluate_model(head, card(), with_head(data), world=World())
    transform = eval_transform(SIZE, MEAN, MEAN)
    head.eval()
    correct = []
    with torch.no_grad():
        for label, name in enumerate(CLASSES):
            for path in sorted((data / "test" / name).iterdir()):
                correct.append(int(head(transform(Image.open(path))[None]).argmax()) == label)
    assert report.metrics == {
        "shapes/top1": pytest.approx(np.mean(correct)),
        "shapes/top5": 1.0,
        "shapes/meanPerClass": pytest.approx(np.mean(correct)),
    }
    per_class = evaluate_model(head, card(), with_head(data, metric="meanPerClass"), world=World())
    assert next(iter(per_class.metrics)) == "shapes/meanPerClass"


def test_a_head_that_does_not_fit_is_refused(data: Path, head: Head, tmp_path: Path) -> None:
    settings = Evaluate(classification=({"name": "x", "data": str(data / "test")},))
    with pytest.raises(ConfigurationError, match="card names no classes: set labels"):
        evaluate_model(head, card(), settings, world=World())
    with pytest.raises(ConfigurationError, match=r"'shapes': labels: .* only the data has 'disc'"):
        evaluate_model(head, card(), with_head(data, labels="cifar10"), world=World())
    head.linear = nn.Linear(8, 5)
    with pytest.raises(ConfigurationError, match="head has 5 outputs and labels 3 names"):
        evaluate_model(head, card(), with_head(data), world=World())
    task = {"name": "z", "data": str(data / "test"), "prompts": str(data / "prompts.yaml")}
    zero_shot = Evaluate.model_validate({"zeroShot": [task]})
    with pytest.raises(ConfigurationError, match="the model has no text tower"):
        evaluate_model(head, card(), zero_shot, world=World())

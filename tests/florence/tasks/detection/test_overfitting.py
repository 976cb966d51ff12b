"""A whole detector learns eight images by heart: assignment, losses and decoding fit each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from florence.config.detection import BoxMetric, Inference
from florence.config.model import architecture_of
from florence.data.boxes import AnnotatedImage, Annotation
from florence.data.vocabularies import Vocabulary
from florence.distributed.world import World
from florence.tasks.detection.batch import Target
from florence.tasks.detection.box_metrics import FoundBoxes, measure
from florence.tasks.detection.detector import build_detector
from florence.tasks.detection.looking import Look
from florence.tasks.detection.objective import DetectionObjective
from florence.tasks.detection.settings import DetectionLoss
from florence.tasks.detection.shape import DetectorShape
from tests.florence.tasks.detection.scenes import batch_of, picture, scene

NAMES = ("red", "green", "blue")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
STEPS = 70


def record(number: int, target: Target, side: int) -> AnnotatedImage:
    boxes = [
        Annotation(bbox=(x1, y1, x2 - x1, y2 - y1), category=NAMES[label])
        for (x1, y1, x2, y2), label in zip(
            target.boxes.tolist(), target.labels.tolist(), strict=True
        )
    ]
    return AnnotatedImage(image_id=number, width=side, height=side, source="x", boxes=tuple(boxes))


@pytest.mark.slow
def test_eight_images_are_learnt_by_heart() -> None:
    side = 96
    batch = batch_of([scene(number, side, side) for number in range(8)])
    shape = DetectorShape(classes=3, channels=64, blocks=2, coarsest=64)
    model = build_detector(architecture_of("coswin-nano"), shape, seed=0, window=4)
    objective = DetectionObjective(shape.strides, MEAN, STD, DetectionLoss(), World())
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 10) * (0.1 if step >= STEPS - 15 else 1)
        outputs = objective.outputs(model, batch)
        loss = objective.loss(outputs, batch, objective.prepare(batch)).value
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    look = Look(model.eval(), MEAN, STD, side, Inference())
    found = []
    with torch.no_grad():
        for image in batch.images:
            boxes = look.found(picture(image))
            found.append(FoundBoxes(*(np.asarray(tensor) for tensor in boxes)))
    images = [record(number, target, side) for number, target in enumerate(batch.targets)]
    result = measure(
        images, found, NAMES, {"x": Vocabulary(NAMES)}, metric=BoxMetric.AP50, max_detections=100
    )
    assert result.metrics["ap50"] > 0.95

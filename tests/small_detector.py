"""A detector that tests of using one share: untrained, but sure that there is something."""

from __future__ import annotations

from pathlib import Path

import torch

from florence.config import architecture_of
from florence.models.stored import ModelCard, save_model
from florence.tasks.detection.detector import Detector, build_detector
from florence.tasks.detection.shape import DETECTION, ZERO_SHOT_DETECTION, DetectorShape
from florence.text.templates import DIGITS

NANO = architecture_of("coswin-nano")
LABELS = ("cat", "a very long name of a dog that no picture has room for")


def detector(*, texts: bool = False) -> tuple[Detector, ModelCard]:
    """The model and its card; all classes are probable everywhere, so that there are boxes."""
    labels = () if texts else LABELS
    shape = DetectorShape(
        classes=max(len(labels), 1),
        channels=32,
        blocks=1,
        coarsest=32,
        long_side=96,
        tower_resolution=32,
    )
    model = build_detector(NANO, shape, seed=0, window=4, texts=texts).eval()
    with torch.no_grad():
        model.head.anchors.logits.bias.fill_(2.0)
        model.head.anchors.centerness.bias.fill_(2.0)
    card = ModelCard(
        task=ZERO_SHOT_DETECTION if texts else DETECTION,
        architecture=NANO,
        window=4,
        resolution=64,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        head=shape.to_card(),
        labels=labels,
        templates=DIGITS if texts else (),
    )
    return model, card


def save(folder: Path, *, texts: bool = False) -> Path:
    """Write the model's files into a folder."""
    save_model(folder, *detector(texts=texts))
    return folder

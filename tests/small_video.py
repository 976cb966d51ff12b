"""Untrained models of clips that tests of using one share, and a video."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from florence.config import architecture_of
from florence.config.video import ClipSampling, VideoTower
from florence.data.video.writing import write_clip
from florence.models.classifier import HeadShape
from florence.models.meta import on_meta
from florence.models.stored import ModelCard, save_model
from florence.models.video_models import (
    ACTIONS,
    VIDEO_TEXT,
    VideoTwoTower,
    build_video_classifier,
    initialise,
)

NANO = architecture_of("coswin-nano")
LABELS = ("left", "right", "up")
SHAPE = VideoTower(window_frames=(2, 2, 2, 2)).shape(NANO.image, NANO.image.window)


def save(folder: Path, *, texts: bool = False) -> Path:
    """Write a model's files: a classifier of actions, or a tower of clips beside texts."""
    head = {"video": SHAPE.wire(), "clip": ClipSampling(frames=4).wire()}
    classifier = HeadShape(classes=len(LABELS))
    if not texts:
        head["classifier"] = classifier.to_card()
        model = build_video_classifier(NANO, SHAPE, classifier)
    else:
        with on_meta():
            model = VideoTwoTower(NANO, SHAPE)
    initialise(model, 0)
    card = ModelCard(
        task=VIDEO_TEXT if texts else ACTIONS,
        architecture=NANO,
        window=NANO.image.window,
        resolution=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        head=head,
        labels=() if texts else LABELS,
    )
    save_model(folder, model, card)
    return folder


def video(frames: int = 20, seed: int = 0) -> bytes:
    """An mp4 of noise, ten frames a second."""
    generator = np.random.default_rng(seed)
    return write_clip(
        (generator.integers(0, 256, (32, 48, 3), np.uint8) for _ in range(frames)), rate=10
    )

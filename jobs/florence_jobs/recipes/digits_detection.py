"""Detection in small: scenes of scanned digits, from a tower that was trained on single ones."""

from __future__ import annotations

from typing import Any

from florence.config import (
    EngineKind,
    Loader,
    ModelConfig,
    Optimizer,
)
from florence.config.detection import Inference
from florence.tasks.detection.augmentation import DetectionAugmentation, LargeScaleJitter
from florence.tasks.detection.settings import Detection, DetectionHead
from florence_jobs.recipes.digits import digits_pretraining
from florence_operator.api import FlorenceJob, JobSpec, Stage
from florence_operator.api.v1alpha1 import API_VERSION, KIND, Metadata, Resources

DIGITS_DETECTION_HEADER = """\
# Detection on scenes of scanned digits, held-out ones drawn by other hands: fine-tuned from a tower
# that has seen single digits with captions; from scratch with the same budget; without any label,
# by boxes of anything that the texts then name (zero-shot); and that one with five boxes of each
# digit.
#
#   florencectl submit -f jobs/samples/digits-detection.yaml --local
"""

_TRAIN, _TEST = "builtin:digits-scenes/train", "builtin:digits-scenes/test"


def digits_detection() -> FlorenceJob:
    """Pretraining, then detectors: fine-tuned, from scratch, zero-shot, and that of five shots."""
    cores, after = Resources(workers=2), ("pretrain",)
    return FlorenceJob(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name="digits-detection"),
        spec=JobSpec(
            model=ModelConfig(preset="coswin-nano"),
            stages=(
                *digits_pretraining(),
                Stage(name="boxes", depends_on=after, resources=cores, detection=_stage(1_200)),
                Stage(name="boxes-scratch", resources=cores, detection=_stage(1_200)),
                Stage(
                    name="zero-shot",
                    depends_on=after,
                    resources=cores,
                    detection=_stage(200, class_agnostic=True, frozen_tower=True),
                ),
                Stage(
                    name="five-shot",
                    depends_on=("zero-shot",),
                    resources=cores,
                    detection=_stage(400, shots=5),
                ),
            ),
        ),
    )


def _stage(steps: int, **fields: Any) -> Detection:
    return Detection(
        data=_TRAIN,
        validation=_TEST,
        batch_size=16,
        steps=steps,
        resolution=96,
        optimizer=Optimizer(lr=1.25e-3, warmup_steps=20),
        loader=Loader(workers=1),
        engine=EngineKind.TORCH,
        # What the tower knows of whole pictures it has to learn of places.
        tower_lr_scale=1.0,
        # Digits are 18 to 56 pixels high: three levels, of anchors of 64, 128 and 256 pixels.
        head=DetectionHead(channels=64, groups=8, blocks=1, coarsest_stride=32),
        # A digit that is mirrored is another one. Squares are all of one size: none is padded.
        boxes=DetectionAugmentation(
            flip=0.0, large_scale_jitter=LargeScaleJitter(side=128, scale_min=0.8, scale_max=1.25)
        ),
        # The smallest digits are two cells of the finest level: larger, they are told apart.
        inference=Inference(short_sides=(112, 144), voting_iou=0.7),
        **fields,
    )

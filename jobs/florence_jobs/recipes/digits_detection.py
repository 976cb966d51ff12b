"""Detection in small: scenes of scanned digits, from a tower that was trained on single ones."""

from __future__ import annotations

from typing import Any

from florence.config import (
    Augmentation,
    CheckpointPolicy,
    EngineKind,
    Loader,
    ModelConfig,
    Optimizer,
    Text,
)
from florence.tasks.detection.augmentation import DetectionAugmentation
from florence.tasks.detection.settings import Detection, DetectionHead
from florence.tasks.pretrain.settings import Pretrain
from florence_operator.api import FlorenceJob, JobSpec, Stage
from florence_operator.api.v1alpha1 import API_VERSION, KIND, Metadata, Resources

DIGITS_DETECTION_HEADER = """\
# Detection on scenes of scanned digits, held-out ones drawn by other hands: fine-tuned from a tower
# that has seen single digits with captions; from scratch with the same budget; from five boxes of
# each digit; and without any label, by boxes of anything that the texts then name (zero-shot).
#
#   florencectl submit -f jobs/samples/digits-detection.yaml --local
"""

_TRAIN, _TEST = "builtin:digits-scenes/train", "builtin:digits-scenes/test"


def digits_detection() -> FlorenceJob:
    """Pretraining, then detectors: fine-tuned, from scratch, of five shots, zero-shot."""
    cores = Resources(workers=2)
    pretrain = Pretrain(
        data="builtin:digits/train",
        batch_size=128,
        steps=300,
        resolution=64,
        text=Text(templates="digits"),
        augmentation=Augmentation(scale_min=0.7, rotation=15),
        drop_path=0.1,
        optimizer=Optimizer(lr=1e-3, warmup_steps=25),
        loader=Loader(workers=1),
        engine=EngineKind.TORCH,
        checkpoints=CheckpointPolicy(every_steps=200),
    )
    after = ("pretrain",)
    return FlorenceJob(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name="digits-detection"),
        spec=JobSpec(
            model=ModelConfig(preset="coswin-nano"),
            stages=(
                Stage(name="pretrain", resources=cores, pretrain=pretrain),
                Stage(name="boxes", depends_on=after, resources=cores, detection=_stage(400)),
                Stage(name="boxes-scratch", resources=cores, detection=_stage(400)),
                Stage(
                    name="five-shot",
                    depends_on=after,
                    resources=cores,
                    detection=_stage(120, shots=5),
                ),
                Stage(
                    name="zero-shot",
                    depends_on=after,
                    resources=cores,
                    detection=_stage(200, class_agnostic=True, frozen_tower=True),
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
        optimizer=Optimizer(lr=2e-3, warmup_steps=20),
        loader=Loader(workers=1),
        engine=EngineKind.TORCH,
        tower_lr_scale=0.5,
        # Digits are 18 to 56 pixels high: three levels, of anchors of 64, 128 and 256 pixels.
        head=DetectionHead(channels=32, groups=8, blocks=1, coarsest_stride=32),
        # A digit that is mirrored is another one.
        boxes=DetectionAugmentation(flip=0.0, short_side_min=88, short_side_max=112, max_side=160),
        **fields,
    )

"""Videos in small: digits in motion, by a tower that was trained on pictures of digits."""

from __future__ import annotations

from typing import Any

from florence.config import (
    Augmentation,
    CheckpointPolicy,
    EngineKind,
    Loader,
    ModelConfig,
    Optimizer,
    RetrievalLabel,
)
from florence.config.video import ClipSampling, VideoTower, Views
from florence.tasks.finetune.settings import RandAugmentSettings
from florence.tasks.video.settings import ActionHead, ClipCaptions, Video, VideoMode
from florence_jobs.recipes.digits import digits_pretraining
from florence_operator.api import FlorenceJob, JobSpec, Stage
from florence_operator.api.v1alpha1 import API_VERSION, KIND, Metadata, Resources

DIGITS_VIDEO_HEADER = """\
# Videos of scanned digits in motion, held-out ones of other hands: a tower of images, trained on
# pictures of digits, is inflated to one of clips and learns what digits do (eight actions), and
# which of two passes the other (retrieval by texts). actions-one-frame sees a single frame of each
# clip, which does not show what happens; the stages called ...-scratch do not start from the
# images' tower.
#
#   florencectl submit -f jobs/samples/digits-video.yaml --local
"""

RESOLUTION = 64
_ACTIONS, _PAIRS = "builtin:digits-actions", "builtin:digits-pairs"
# Eight frames of sixteen, and four steps of time after two frames became one token.
_CLIP = ClipSampling(frames=8, stride=2)
_TOWER = VideoTower(window_frames=(4, 4, 4, 4))


def digits_video() -> FlorenceJob:
    """Pretraining on pictures, then actions and retrieval: minutes on two CPU cores."""
    cores, after = Resources(workers=2), ("pretrain",)
    one_frame = {"clip": ClipSampling(frames=1, stride=1), "tower": VideoTower(tubelet=1)}
    return FlorenceJob(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name="digits-video"),
        spec=JobSpec(
            model=ModelConfig(preset="coswin-nano"),
            stages=(
                *digits_pretraining(chalk=450),
                Stage(name="actions", depends_on=after, resources=cores, video=_actions()),
                Stage(
                    name="actions-scratch",
                    depends_on=after,
                    resources=cores,
                    video=_actions(inflate=False),
                ),
                Stage(
                    name="actions-one-frame",
                    depends_on=after,
                    resources=cores,
                    video=_actions(**one_frame),
                ),
                Stage(name="retrieval", depends_on=after, resources=cores, video=_retrieval()),
                Stage(
                    name="retrieval-scratch",
                    depends_on=after,
                    resources=cores,
                    video=_retrieval(inflate=False),
                ),
            ),
        ),
    )


def _actions(**fields: Any) -> Video:
    head = ActionHead(
        dropout=0.1,
        tower_lr_scale=1.0,
        # What is turned or moved by chance is another action.
        rand_augment=RandAugmentSettings(operations=0),
    )
    return _stage(
        VideoMode.ACTIONS,
        _ACTIONS,
        105,
        # Motion is seen from afar.
        resolution=32,
        optimizer=Optimizer(lr=1.5e-3, warmup_steps=20),
        head=head,
        views=Views(spans=1, crops=1),
        **fields,
    )


def _retrieval(**fields: Any) -> Video:
    # Four hundred captions describe six clips each: whichever clip has one is right for it.
    captions = ClipCaptions(label=RetrievalLabel.TEXT, captions_per_clip=1)
    return _stage(
        VideoMode.RETRIEVAL,
        _PAIRS,
        450,
        captions=captions,
        # Who passes whom is seen in two frames. Each has tokens of its own: where two become one,
        # what moves is seen twice, half as bright, and is not known again.
        clip=ClipSampling(frames=2, stride=8),
        tower=VideoTower(tubelet=1, merge_kernel_time=1, window_frames=(2, 2, 2, 2)),
        augmentation=Augmentation(scale_min=1.0, scale_max=1.0),
        **fields,
    )


def _stage(mode: VideoMode, data: str, steps: int, **fields: Any) -> Video:
    return Video.model_validate(
        {
            "mode": mode,
            "data": f"{data}/train",
            "validation": f"{data}/test",
            "batch_size": 32,
            "steps": steps,
            "resolution": RESOLUTION,
            "clip": _CLIP,
            "tower": _TOWER,
            "augmentation": Augmentation(scale_min=0.8, scale_max=1.0),
            "optimizer": Optimizer(lr=1e-3, warmup_steps=20),
            "loader": Loader(workers=1),
            "engine": EngineKind.TORCH,
            "checkpoints": CheckpointPolicy(every_steps=200),
            **fields,
        }
    )

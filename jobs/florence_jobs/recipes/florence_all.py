"""The whole of the paper as one job: pretraining, and every adaptation of its model."""

from __future__ import annotations

from florence.config import (
    ActivationCheckpointing,
    EngineKind,
    Evaluate,
    Optimizer,
    Precision,
    Training,
)
from florence.config.evaluations import VideoRetrieval
from florence.tasks.caption.settings import Caption
from florence_jobs.recipes.detection import flod_pretraining
from florence_jobs.recipes.finetuning import imagenet_finetune
from florence_jobs.recipes.florence import florence_h
from florence_jobs.recipes.paper_cluster import on_paper_cluster
from florence_jobs.recipes.video import kinetics
from florence_jobs.recipes.vision_language import vision_language
from florence_operator.api import FlorenceJob, Stage
from florence_operator.api.v1alpha1 import Resources

FLORENCE_ALL_HEADER = """\
# The whole paper as one job: the pretraining of jobs/samples/florence-h.yaml, then from its model
# ImageNet, detection on FLOD-9M, vision and language, Kinetics, and what needs no training.
#
#   florencectl plan -f jobs/samples/florence-all.yaml
"""


IMAGENET_IMAGES, VLP_IMAGES, VQA_QUESTIONS = 1_281_167, 14_000_000, 658_111
COCO_IMAGES, KINETICS_CLIPS = 113_287, 240_000


def florence_all(
    captions: str = "s3://coco/karpathy-train",
    held_out: str = "s3://coco/karpathy-test",
    clips: str = "s3://msrvtt/1ka-test",
) -> FlorenceJob:
    """Every recipe of the paper, each stage after the one whose model it starts from.

    Epochs are written as steps of data sets of the published sizes: the job has a price before
    there is any data.

    Args:
        captions: shards of COCO's captions, as 'florencectl data import karpathy' writes them.
        held_out: those of the test split.
        clips: shards of MSR-VTT 1K-A.
    """
    *pretraining, zero_shot = florence_h().spec.stages
    trained = pretraining[-1].name
    vlp, vqa = vision_language().spec.stages
    (imagenet,) = imagenet_finetune().spec.stages
    (flod,) = flod_pretraining().spec.stages
    (video,) = kinetics().spec.stages
    evaluations = zero_shot.config
    assert isinstance(evaluations, Evaluate)
    clip_texts = (VideoRetrieval(name="msrvtt-1ka", data=clips),)
    stages = (
        *pretraining,
        _in_steps(_after(trained, imagenet), IMAGENET_IMAGES),
        _after(trained, flod),
        _in_steps(_after(trained, vlp), VLP_IMAGES),
        _in_steps(vqa, VQA_QUESTIONS),
        _in_steps(_caption(vlp.name, captions, held_out), COCO_IMAGES),
        _in_steps(_after(trained, video), KINETICS_CLIPS),
        zero_shot.model_copy(
            update={
                "name": "evaluate",
                "evaluate": evaluations.model_copy(update={"video_retrieval": clip_texts}),
            }
        ),
    )
    return on_paper_cluster("florence-all", stages, deadline="60d")


def _after(name: str, stage: Stage) -> Stage:
    """A recipe's stage that starts from another stage's model instead of a stored one."""
    return stage.model_copy(update={"depends_on": (name,), "initial_model": None})


def _in_steps(stage: Stage, samples: int) -> Stage:
    """A stage of epochs with as many steps as those of so many samples have."""
    config = stage.config
    assert isinstance(config, Training)
    steps = {"steps": config.total_steps(samples), "epochs": None}
    return stage.model_copy(update={stage.kind.name: config.model_copy(update=steps)})


def _caption(after: str, data: str, validation: str) -> Stage:
    """COCO's captions at METER's sizes; the paper names captioning without a protocol."""
    settings = Caption(
        data=data,
        validation=validation,
        batch_size=512,
        epochs=10,
        resolution=384,
        window=12,
        optimizer=Optimizer(lr=1e-5, warmup_steps=200, eps=1e-8, weight_decay=0.01),
        precision=Precision.FP16,
        engine=EngineKind.DEEPSPEED,
        zero_stage=2,
        activation_checkpointing=ActivationCheckpointing.FULL,
    )
    nodes = Resources(workers=4, gpus_per_worker=8, cpu=96, memory="1000Gi")
    return Stage(name="caption", depends_on=(after,), resources=nodes, caption=settings)

"""Vision and language: the paper's stages (section 3.6), and the same in small on digits."""

from __future__ import annotations

from typing import Any

from florence.config import (
    ActivationCheckpointing,
    Augmentation,
    CheckpointPolicy,
    EngineKind,
    Loader,
    ModelConfig,
    Optimizer,
    Precision,
    Schedule,
)
from florence.tasks.caption.settings import Caption
from florence.tasks.vision_language.settings import (
    FusionSettings,
    RandAugmentSettings,
    TextEncoder,
)
from florence.tasks.vlp.settings import FurtherData, Vlp
from florence.tasks.vqa.settings import Vqa
from florence_jobs.recipes.digits import digits_pretraining
from florence_jobs.recipes.finetuning import PRETRAINED
from florence_jobs.recipes.paper_cluster import on_paper_cluster
from florence_operator.api import FlorenceJob, JobSpec, Stage
from florence_operator.api.v1alpha1 import (
    API_VERSION,
    KIND,
    Metadata,
    Resources,
)

SCENES = "builtin:digits-questions"
RESOLUTION = 64

DIGITS_VISION_LANGUAGE_HEADER = """\
# Questions about scenes of scanned digits, and captions of them: contrastive pretraining, then the
# fusion of image and text (matching and masked words), then answers and captions. The stages called
# ...-no-vlp do the last step from the pretrained towers, those called ...-scratch from nothing.
#
#   florencectl submit -f jobs/samples/digits-vision-language.yaml --local
#
# jobs/florence_jobs/recipes/vision_language.py has the paper's stages at their sizes.
"""


def digits_vision_language() -> FlorenceJob:
    """Pretraining, fusion, answers and captions on scenes of digits: minutes on two CPU cores."""
    cores, vision = Resources(workers=2), ("pretrain",)
    # Half of the words are hidden: what is not said has to be seen, digit for digit.
    vlp = Vlp.model_validate(_digits_fields(650, mask_fraction=0.5))
    # A rate at which the fusion keeps what it knows, and more for the head, which knows nothing.
    slowly = Optimizer(lr=2.5e-4, warmup_steps=50)
    vqa = Vqa.model_validate(_digits_fields(1_500, optimizer=slowly, head_lr_scale=10.0))
    caption = Caption.model_validate(_digits_fields(300, batch_size=32))
    fused = ("vlp",)
    return FlorenceJob(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name="digits-vision-language"),
        spec=JobSpec(
            model=ModelConfig(preset="coswin-nano"),
            stages=(
                *digits_pretraining(scans=150, chalk=300),
                Stage(name="vlp", depends_on=vision, resources=cores, vlp=vlp),
                Stage(name="vqa", depends_on=fused, resources=cores, vqa=vqa),
                Stage(name="caption", depends_on=fused, resources=cores, caption=caption),
                Stage(name="vqa-no-vlp", depends_on=vision, resources=cores, vqa=vqa),
                Stage(name="caption-no-vlp", depends_on=vision, resources=cores, caption=caption),
                Stage(name="vqa-scratch", resources=cores, vqa=vqa),
                Stage(name="caption-scratch", resources=cores, caption=caption),
            ),
        ),
    )


def vision_language(
    model: str = PRETRAINED,
    roberta: str = "s3://florence/models/roberta-base",
    data: str = "s3://vlp/coco",
    further: tuple[str, ...] = (
        "s3://vlp/cc3m",
        "s3://vlp/cc12m",
        "s3://vlp/sbu",
        "s3://vlp/visual-genome",
    ),
    questions: str = "s3://vqa/train-and-val",
    validation: str = "s3://vqa/held-out",
) -> FlorenceJob:
    """The paper's V+L pretraining and VQA: 80.16 on test-dev, 80.36 on test-std.

    The fusion is pretrained on 14 million images with 20 million captions for 43 epochs at 384
    pixels, then answers questions after 10 epochs at a rate of 8e-6. Batch sizes, other rates and
    warm-up are METER's; that questions are asked at 576 pixels is, too: the paper does not say.

    Args:
        model: the contrastive model whose image tower sees.
        roberta: folder of ``roberta-base``.
        data: shards of COCO's captions.
        further: those of the other data sets, each gone through once an epoch.
        questions: training and validation questions of VQAv2 but those of 1,000 images.
        validation: the questions of these.
    """
    common: dict[str, Any] = {
        "precision": Precision.FP16,
        "engine": EngineKind.DEEPSPEED,
        "zero_stage": 2,
        "activation_checkpointing": ActivationCheckpointing.FULL,
    }
    vlp = Vlp(
        data=data,
        further_data=tuple(FurtherData(data=each) for each in further),
        roberta=roberta,
        batch_size=4_096,
        epochs=43,
        resolution=384,
        window=12,
        optimizer=Optimizer(
            lr=1e-5,
            schedule=Schedule.LINEAR,
            min_lr_fraction=0,
            warmup_steps=14_000,
            eps=1e-8,
            weight_decay=0.01,
        ),
        **common,
    )
    vqa = Vqa(
        data=questions,
        validation=validation,
        batch_size=512,
        epochs=10,
        resolution=576,
        window=18,
        optimizer=Optimizer(
            lr=8e-6,
            schedule=Schedule.LINEAR,
            min_lr_fraction=0,
            warmup_steps=1_200,
            eps=1e-8,
            weight_decay=0.01,
        ),
        **common,
    )
    nodes = Resources(workers=16, gpus_per_worker=8, cpu=96, memory="1000Gi")
    return on_paper_cluster(
        "vision-language",
        (
            Stage(name="vlp", initial_model=model, resources=nodes, vlp=vlp),
            Stage(name="vqa", depends_on=("vlp",), resources=nodes, vqa=vqa),
        ),
        deadline="21d",
    )


def _digits_fields(steps: int, **fields: Any) -> dict[str, Any]:
    return {
        "data": f"{SCENES}/train",
        "validation": f"{SCENES}/test",
        "batch_size": 64,
        "steps": steps,
        "resolution": RESOLUTION,
        "text_encoder": TextEncoder.FLORENCE,
        "text_length": 20,
        "fusion": FusionSettings(layers=2, width=128, heads=4, hidden=256),
        "dropout": 0.0,
        "fusion_lr_scale": 2.0,
        "head_lr_scale": 2.0,
        # What is cut off is not there to be named.
        "augmentation": Augmentation(scale_min=1.0, ratio_min=1.0, ratio_max=1.0),
        "rand_augment": RandAugmentSettings(operations=0),
        "optimizer": Optimizer(lr=5e-4, warmup_steps=50),
        "loader": Loader(workers=1),
        "engine": EngineKind.TORCH,
        "checkpoints": CheckpointPolicy(every_steps=250),
        **fields,
    }

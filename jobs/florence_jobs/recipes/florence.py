"""The paper's training, whole."""

from __future__ import annotations

from florence.config import (
    ActivationCheckpointing,
    EngineKind,
    Evaluate,
    Optimizer,
    Precision,
    Retrieval,
    RetrievalFormat,
    ZeroShot,
)
from florence.tasks.pretrain.settings import Pretrain
from florence_jobs.recipes.paper_cluster import on_paper_cluster
from florence_operator.api import FlorenceJob, Stage
from florence_operator.api.v1alpha1 import Resources

FLORENCE_H_HEADER = """\
# The paper's pretraining on 512 A100-40GB: CoSwin-H, 24,576 pairs a step, 1M + 180K + 80K steps.
#
#   florencectl plan -f jobs/samples/florence-h.yaml
"""

_PAPER_BATCH = 24_576


def florence_h(
    data: str = "s3://fld/shards",
    imagenet: str = "s3://eval/imagenet-val",
    coco: str = "s3://eval/coco/dataset_coco.json",
) -> FlorenceJob:
    """The paper's pretraining: CoSwin-H and its text tower on 512 A100-40GB.

    1M steps on all data with templated short texts, 180K without augmented data, 80K at 384 pixels,
    24,576 pairs a step (paper, section 2.2 and 2.4). Learning rates, warm-up and weight decay are
    not published; these are CLIP's and UniCL's orders of magnitude.

    Args:
        data: shards of image-text pairs.
        imagenet: labelled shards of the validation set.
        coco: Karpathy's json of the retrieval test set, images beside it.
    """
    gpus = Resources(workers=64, gpus_per_worker=8, cpu=96, memory="1000Gi")
    return on_paper_cluster(
        "florence-h",
        (
            Stage(
                name="mixed",
                resources=gpus,
                pretrain=_paper_stage(data, 1_000_000, 5e-4, 2_000),
            ),
            Stage(
                name="clean",
                depends_on=("mixed",),
                resources=gpus,
                pretrain=_paper_stage(data, 180_000, 1e-4, 500, exclude_augmented=True),
            ),
            Stage(
                name="high-resolution",
                depends_on=("clean",),
                resources=gpus,
                pretrain=_paper_stage(
                    data, 80_000, 2e-5, 500, exclude_augmented=True, resolution=384, window=12
                ),
            ),
            Stage(
                name="zero-shot",
                depends_on=("high-resolution",),
                resources=Resources(workers=1, gpus_per_worker=8, cpu=96, memory="1000Gi"),
                evaluate=Evaluate(
                    zero_shot=(
                        ZeroShot(name="imagenet", data=imagenet, prompts="s3://eval/imagenet.yaml"),
                    ),
                    retrieval=(Retrieval(name="coco", data=coco, format=RetrievalFormat.KARPATHY),),
                    precision=Precision.BF16,
                ),
            ),
        ),
        deadline="14d",
    )


def _paper_stage(
    data: str,
    steps: int,
    lr: float,
    warmup_steps: int,
    *,
    exclude_augmented: bool = False,
    resolution: int = 224,
    window: int | None = None,
) -> Pretrain:
    fields = {
        "data": data,
        "batch_size": _PAPER_BATCH,
        "steps": steps,
        "resolution": resolution,
        "optimizer": Optimizer(lr=lr, warmup_steps=warmup_steps),
        "precision": Precision.FP16,
        "engine": EngineKind.DEEPSPEED,
        "zero_stage": 2,
    }
    if resolution > 224:
        fields["activation_checkpointing"] = ActivationCheckpointing.FULL
    if exclude_augmented:
        fields["exclude_augmented"] = True
    if window is not None:
        fields["window"] = window
    return Pretrain.model_validate(fields)

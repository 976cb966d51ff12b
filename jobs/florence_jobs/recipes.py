"""Whole jobs as functions: the paper's training, and the same in small on scanned digits.

A recipe returns a FlorenceJob; whoever wants another run calls it and changes fields. The files
under ``jobs/samples`` are these recipes, written out; ``make check`` says when they are stale.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from florence.config import (
    ActivationCheckpointing,
    Augmentation,
    Baseline,
    Checkpoints,
    EngineKind,
    Evaluate,
    Loader,
    ModelConfig,
    Optimizer,
    Precision,
    Retrieval,
    RetrievalFormat,
    Text,
    ZeroShot,
)
from florence.tasks.pretrain.settings import Pretrain
from florence_operator.api import FlorenceJob, JobSpec, Stage, to_yaml
from florence_operator.api.generated import write_or_check
from florence_operator.api.v1alpha1 import (
    API_VERSION,
    KIND,
    Artifacts,
    Metadata,
    NodePool,
    Resources,
    Retries,
    RunPolicy,
    Tracking,
)

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
    return FlorenceJob(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name="florence-h"),
        spec=JobSpec(
            image="florence-jobs:0.1.0",
            model=ModelConfig(preset="coswin-h"),
            artifacts=Artifacts(
                uri="s3://florence/runs", endpoint="http://minio:9000", credentials_secret="minio"
            ),
            tracking=Tracking(mlflow_uri="http://mlflow:5000"),
            node_pool=NodePool(selector={"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}),
            stages=(
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
                            ZeroShot(
                                name="imagenet", data=imagenet, prompts="s3://eval/imagenet.yaml"
                            ),
                        ),
                        retrieval=(
                            Retrieval(name="coco", data=coco, format=RetrievalFormat.KARPATHY),
                        ),
                        precision=Precision.BF16,
                    ),
                ),
            ),
            run_policy=RunPolicy(
                retries=Retries(infrastructure=20, application=2),
                deadline="14d",
                stall_timeout="10m",
            ),
        ),
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


def digits() -> FlorenceJob:
    """The same shape on the digits that scikit-learn ships: minutes on two CPU cores."""
    cores = Resources(workers=2)
    return FlorenceJob(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name="digits"),
        spec=JobSpec(
            model=ModelConfig(preset="coswin-nano"),
            stages=(
                Stage(name="mixed", resources=cores, pretrain=_digits_stage(400, 1e-3, 40)),
                Stage(
                    name="clean",
                    depends_on=("mixed",),
                    resources=cores,
                    pretrain=_digits_stage(80, 3e-5, 10, exclude_augmented=True),
                ),
                Stage(
                    name="zero-shot",
                    depends_on=("clean",),
                    evaluate=Evaluate(
                        zero_shot=(
                            ZeroShot(
                                name="digits",
                                data="builtin:digits/test",
                                prompts="digits",
                                baseline=Baseline.SVM,
                                baseline_data="builtin:digits/train",
                            ),
                        ),
                    ),
                ),
            ),
        ),
    )


def digits_cluster() -> FlorenceJob:
    """The digits on a cluster: two pods, shards and artifacts in MinIO, metrics in MLflow.

    The addresses are those of ``manifests/overlays/dev``, which also writes the shards.
    """
    local = digits()
    shards, pod = "s3://florence/digits", {"cpu": "250m", "memory": "2Gi"}

    def on_cluster(stage: Stage) -> Stage:
        change: dict[str, object] = {"resources": Resources(workers=stage.resources.workers, **pod)}
        config = stage.config
        if isinstance(config, Pretrain):
            change["pretrain"] = config.model_copy(update={"data": f"{shards}/train"})
        if isinstance(config, Evaluate):
            (task,) = config.zero_shot
            task = task.model_copy(
                update={"data": f"{shards}/test", "baseline_data": f"{shards}/train"}
            )
            change["evaluate"] = config.model_copy(update={"zero_shot": (task,)})
        return stage.model_copy(update=change)

    spec = local.spec.model_copy(
        update={
            "image": "florence-jobs:0.1.0",
            "artifacts": Artifacts(
                uri="s3://florence/runs", endpoint="http://minio:9000", credentials_secret="minio"
            ),
            "tracking": Tracking(mlflow_uri="http://mlflow:5000", experiment="digits"),
            "stages": tuple(on_cluster(stage) for stage in local.spec.stages),
            "run_policy": RunPolicy(start_deadline="15m", ttl_after_finished="7d"),
        }
    )
    metadata = Metadata(name="digits-cluster", namespace="florence")
    return local.model_copy(update={"metadata": metadata, "spec": spec})


def _digits_stage(
    steps: int, lr: float, warmup_steps: int, *, exclude_augmented: bool = False
) -> Pretrain:
    fields = {
        "data": "builtin:digits/train",
        "batch_size": 128,
        "steps": steps,
        "resolution": 64,
        "text": Text(templates="digits"),
        # 1,400 scans are few: crops, tilts and drop path stand in for more.
        "augmentation": Augmentation(scale_min=0.7, rotation=10),
        "drop_path": 0.1,
        "optimizer": Optimizer(lr=lr, warmup_steps=warmup_steps),
        "loader": Loader(workers=1),
        "engine": EngineKind.TORCH,
        "checkpoints": Checkpoints(every_steps=200),
    }
    if exclude_augmented:
        fields["exclude_augmented"] = True
    return Pretrain.model_validate(fields)


RECIPES: dict[str, Callable[[], FlorenceJob]] = {
    "digits": digits,
    "digits-cluster": digits_cluster,
    "florence-h": florence_h,
}

_HEADERS = {
    "digits": """\
# The main job on one machine: train a two-tower model on scanned digits, then classify held-out
# ones by comparing image and text embeddings, having seen captions but never a label.
#
#   florencectl submit -f jobs/samples/digits.yaml --local
#
# The stages are the paper's: all data, short texts put into templates; then only texts that need
# no template. jobs/samples/florence-h.yaml has the same shape and the paper's sizes.
""",
    "digits-cluster": """\
# The digits on a cluster: two pods on two nodes train together, read shards from MinIO, keep
# checkpoints there and log to MLflow. `kubectl apply -k manifests/overlays/dev` makes all of that.
#
#   kubectl apply -f jobs/samples/digits-cluster.yaml
#   kubectl -n florence get fj -w
""",
    "florence-h": """\
# The paper's pretraining on 512 A100-40GB: CoSwin-H, 24,576 pairs a step, 1M + 180K + 80K steps.
#
#   florencectl plan -f jobs/samples/florence-h.yaml
""",
}


def sample(name: str) -> str:
    """The text of ``jobs/samples/<name>.yaml``."""
    return f"{_HEADERS[name]}{to_yaml(RECIPES[name]().manifest())}"


def main(folder: Path, check: bool) -> int:
    """Write the samples into a folder, or say which of them are stale; 1 when one is."""
    return write_or_check({folder / f"{n}.yaml": sample(n) for n in RECIPES}, check=check)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), check="--check" in sys.argv))

"""The paper's training in small, on the scanned digits that scikit-learn ships."""

from __future__ import annotations

from florence.config import (
    Augmentation,
    Baseline,
    Checkpoints,
    EngineKind,
    Evaluate,
    Loader,
    ModelConfig,
    Optimizer,
    Text,
    ZeroShot,
)
from florence.tasks.pretrain.settings import Pretrain
from florence_operator.api import FlorenceJob, JobSpec, Stage
from florence_operator.api.v1alpha1 import (
    API_VERSION,
    KIND,
    Artifacts,
    Metadata,
    Resources,
    RunPolicy,
    Tracking,
)

DIGITS_HEADER = """\
# The main job on one machine: train a two-tower model on scanned digits, then classify held-out
# ones by comparing image and text embeddings, having seen captions but never a label.
#
#   florencectl submit -f jobs/samples/digits.yaml --local
#
# The stages are the paper's: all data, short texts put into templates; then only texts that need
# no template. jobs/samples/florence-h.yaml has the same shape and the paper's sizes.
"""

DIGITS_CLUSTER_HEADER = """\
# The digits on a cluster: two pods on two nodes train together, read shards from MinIO, keep
# checkpoints there and log to MLflow. `kubectl apply -k manifests/overlays/dev` makes all of that.
#
#   kubectl apply -f jobs/samples/digits-cluster.yaml
#   kubectl -n florence get fj -w
"""


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

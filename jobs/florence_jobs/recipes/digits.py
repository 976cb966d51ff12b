"""The paper's training in small, on the scanned digits that scikit-learn ships."""

from __future__ import annotations

from typing import Any

from florence.config import (
    Augmentation,
    Baseline,
    CheckpointPolicy,
    EngineKind,
    Evaluate,
    Loader,
    ModelConfig,
    Optimizer,
    RetrievalLabel,
    Text,
    ZeroShot,
)
from florence.tasks.finetune.settings import (
    CaptionPairs,
    FewShotSettings,
    Finetune,
    Head,
    Mode,
    RandAugmentSettings,
)
from florence.tasks.pretrain.settings import Pretrain
from florence_operator.api import FlorenceJob, JobSpec, Stage
from florence_operator.api.run_policy import RunPolicy
from florence_operator.api.v1alpha1 import (
    API_VERSION,
    KIND,
    Artifacts,
    Metadata,
    Resources,
    Tracking,
)

RESOLUTION = 64
# 1,400 scans are few: crops, tilts and drop path stand in for more.
DIGITS_AUGMENTATION = Augmentation(scale_min=0.7, rotation=15)

DIGITS_HEADER = """\
# The main job on one machine: train a two-tower model on scanned digits, then classify held-out
# ones by comparing image and text embeddings, having seen captions but never a label.
#
#   florencectl submit -f jobs/samples/digits.yaml --local
#
# The stages are the paper's: all data, short texts put into templates; then only texts that need
# no template. The model is then measured without labels (zero-shot) and with them (probe: a linear
# classifier on frozen features, beside one on a tower that was never trained).
# jobs/samples/florence-h.yaml has the same shape and the paper's sizes.
"""

DIGITS_FINETUNE_HEADER = """\
# Every other way to adapt a model, on the scanned digits: a classification head, class names as
# texts, few-shot episodes (5 classes, 5 images each) and image-text retrieval, after a short
# pretraining; the stages called ...-scratch do the same from a freshly initialised model.
#
#   florencectl submit -f jobs/samples/digits-finetune.yaml --local
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
                Stage(name="mixed", resources=cores, pretrain=_digits_stage(500, 1e-3, 40)),
                Stage(
                    name="clean",
                    depends_on=("mixed",),
                    resources=cores,
                    pretrain=_digits_stage(80, 3e-5, 10, exclude_augmented=True),
                ),
                Stage(
                    name="probe",
                    depends_on=("clean",),
                    finetune=Finetune(
                        mode=Mode.LINEAR_PROBE,
                        data="builtin:digits/train",
                        validation="builtin:digits/test",
                        resolution=RESOLUTION,
                        compare_with_scratch=True,
                    ),
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


def digits_finetune() -> FlorenceJob:
    """Every other way to adapt a model, after a short pretraining, and the same from scratch."""
    cores = Resources(workers=2)
    ways: dict[str, Finetune] = {
        "head": _digits_finetune(
            Mode.HEAD,
            600,
            1e-3,
            # A digit that is turned, sheared or inverted is another one.
            head=Head(lr_scale=5.0, mixup=0.2, rand_augment=RandAugmentSettings(operations=0)),
            augmentation=DIGITS_AUGMENTATION,
        ),
        "contrastive": _digits_finetune(
            Mode.CONTRASTIVE, 100, 5e-4, prompts="digits", augmentation=DIGITS_AUGMENTATION
        ),
        "retrieval": _digits_finetune(
            Mode.RETRIEVAL,
            100,
            5e-4,
            # Captions of ten digits repeat: whichever image has one is right for it.
            pairs=CaptionPairs(label=RetrievalLabel.TEXT),
            augmentation=DIGITS_AUGMENTATION,
        ),
    }
    few_shot = Finetune(
        mode=Mode.FEW_SHOT,
        data="builtin:digits/test",
        resolution=RESOLUTION,
        few_shot=FewShotSettings(shots=(5,), episodes=30, epochs=20, flip=False),
        compare_with_scratch=True,
    )
    return FlorenceJob(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name="digits-finetune"),
        spec=JobSpec(
            model=ModelConfig(preset="coswin-nano"),
            stages=(
                Stage(name="pretrain", resources=cores, pretrain=_digits_stage(400, 1e-3, 25)),
                Stage(
                    name="few-shot", depends_on=("pretrain",), resources=cores, finetune=few_shot
                ),
                *(
                    Stage(name=name, depends_on=("pretrain",), resources=cores, finetune=settings)
                    for name, settings in ways.items()
                ),
                *(
                    Stage(name=f"{name}-scratch", resources=cores, finetune=settings)
                    for name, settings in ways.items()
                ),
            ),
        ),
    )


def digits_pretraining(scans: int = 200, chalk: int = 500) -> tuple[Stage, Stage]:
    """Stages ``scans`` and ``pretrain``: two towers that know a digit of any size, anywhere.

    The first learns from scans that fill their picture, the second from digits on textures, from
    which alone nothing is learned in the first hundreds of steps.

    Args:
        scans: steps of the first.
        chalk: steps of the second.
    """
    cores = Resources(workers=2)
    textured = _digits_stage(chalk, 1e-3, 25, data="builtin:digits-chalk/train")
    return (
        Stage(name="scans", resources=cores, pretrain=_digits_stage(scans, 1e-3, 25)),
        Stage(name="pretrain", depends_on=("scans",), resources=cores, pretrain=textured),
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
        if isinstance(config, Finetune):
            change["finetune"] = config.model_copy(
                update={"data": f"{shards}/train", "validation": f"{shards}/test"}
            )
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


def _digits_finetune(mode: Mode, steps: int, lr: float, **fields: Any) -> Finetune:
    return Finetune(
        mode=mode,
        data="builtin:digits/train",
        validation="builtin:digits/test",
        batch_size=128,
        steps=steps,
        resolution=RESOLUTION,
        drop_path=0.1,
        optimizer=Optimizer(lr=lr, warmup_steps=10),
        loader=Loader(workers=1),
        engine=EngineKind.TORCH,
        **fields,
    )


def _digits_stage(steps: int, lr: float, warmup_steps: int, **fields: Any) -> Pretrain:
    usual = {
        "data": "builtin:digits/train",
        "batch_size": 128,
        "steps": steps,
        "resolution": RESOLUTION,
        "text": Text(templates="digits"),
        "augmentation": DIGITS_AUGMENTATION,
        "drop_path": 0.1,
        "optimizer": Optimizer(lr=lr, warmup_steps=warmup_steps),
        "loader": Loader(workers=1),
        "engine": EngineKind.TORCH,
        "checkpoints": CheckpointPolicy(every_steps=200),
    }
    return Pretrain.model_validate({**usual, **fields})

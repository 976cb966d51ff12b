"""Arguments with which a pipeline runs on this machine in minutes: on the scanned digits."""

from __future__ import annotations

from typing import Any

from florence.config import (
    Augmentation,
    EngineKind,
    Evaluate,
    Loader,
    ModelConfig,
    Optimizer,
    Text,
    ZeroShot,
)
from florence.tasks.finetune.settings import Finetune, Head, Mode, RandAugmentSettings
from florence.tasks.pretrain.settings import Pretrain
from florence_operator.api import FlorenceJob, JobSpec, Stage, to_yaml
from florence_operator.api.v1alpha1 import API_VERSION, KIND, Metadata, Resources, Tracking

_RESOLUTION = 32
_TRAIN, _TEST = "builtin:digits/train", "builtin:digits/test"
_GATE = "digits/top1 >= champion - 0.05 and digits/top1 > 0.2"
_STEPS = 150


def example_arguments(pipeline: str) -> dict[str, Any]:
    """Arguments of a pipeline's run on this machine; none where there is no example of it."""
    examples: dict[str, dict[str, Any]] = {
        "pretrain-and-adapt": {
            "data": _TRAIN,
            "pretrain": _text(_pretraining()),
            "evaluation": _text(_evaluation()),
            "adaptations": [_text(_head()), _text(_probe())],
            "gate": _GATE,
        },
        "finetune-and-promote": {
            "job": _text(_contrastive()),
            "model": "models:/digits-contrastive@champion",
            "evaluation": _text(_evaluation()),
            "gate": _GATE,
        },
        "nightly-evaluation": {
            "model": "models:/digits-contrastive@champion",
            "evaluation": _text(_evaluation()),
            "gate": "digits/top1 > 0.2",
        },
    }
    return examples.get(pipeline, {})


def _text(job: FlorenceJob) -> str:
    return to_yaml(job.manifest())


def _job(name: str, stage: Stage) -> FlorenceJob:
    return FlorenceJob(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name=name),
        spec=JobSpec(
            model=ModelConfig(preset="coswin-nano"),
            tracking=Tracking(experiment="digits"),
            stages=(stage,),
        ),
    )


def _pretraining() -> FlorenceJob:
    settings = Pretrain(
        data=_TRAIN,
        batch_size=64,
        steps=_STEPS,
        resolution=_RESOLUTION,
        text=Text(templates="digits"),
        augmentation=Augmentation(scale_min=0.7, rotation=15),
        optimizer=Optimizer(lr=1e-3, warmup_steps=10),
        loader=Loader(workers=0),
        engine=EngineKind.TORCH,
    )
    return _job("digits", Stage(name="pretrain", resources=Resources(workers=2), pretrain=settings))


def _evaluation() -> FlorenceJob:
    measured = ZeroShot(name="digits", data=_TEST, prompts="digits")
    # A model to measure is given when the job is made: until then any name will do.
    stage = Stage(name="zero-shot", initial_model="MODEL", evaluate=Evaluate(zero_shot=(measured,)))
    return _job("digits-evaluation", stage)


def _head() -> FlorenceJob:
    return _job("digits-head", Stage(name="head", initial_model="MODEL", finetune=_finetune()))


def _probe() -> FlorenceJob:
    settings = Finetune(
        mode=Mode.LINEAR_PROBE, data=_TRAIN, validation=_TEST, resolution=_RESOLUTION
    )
    return _job("digits-probe", Stage(name="probe", initial_model="MODEL", finetune=settings))


def _contrastive() -> FlorenceJob:
    settings = _finetune(mode=Mode.CONTRASTIVE, head=None, prompts="digits")
    return _job("digits-tuned", Stage(name="tuned", initial_model="MODEL", finetune=settings))


def _finetune(**changed: Any) -> Finetune:
    settings: dict[str, Any] = {
        "mode": Mode.HEAD,
        "data": _TRAIN,
        "validation": _TEST,
        "batch_size": 64,
        "steps": 60,
        "resolution": _RESOLUTION,
        "optimizer": Optimizer(lr=1e-3, warmup_steps=5),
        "loader": Loader(workers=0),
        "engine": EngineKind.TORCH,
        # A digit that is turned, sheared or inverted is another one.
        "head": Head(lr_scale=5.0, mixup=0.0, rand_augment=RandAugmentSettings(operations=0)),
    }
    kept = {name: value for name, value in {**settings, **changed}.items() if value is not None}
    return Finetune(**kept)

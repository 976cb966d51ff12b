"""The registry of stage kinds: one line a kind. Imports no torch."""

from __future__ import annotations

from florence.errors import ConfigurationError
from florence.tasks import caption, detection, evaluate, finetune, pretrain, video, vlp, vqa
from florence.tasks.kind import Kind, ModelTask

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        pretrain.KIND,
        finetune.KIND,
        detection.KIND,
        vlp.KIND,
        vqa.KIND,
        caption.KIND,
        video.KIND,
        evaluate.KIND,
    )
}

MODEL_TASKS: dict[str, ModelTask] = {
    task.name: task for kind in KINDS.values() for task in kind.models
}


def kind_named(name: str) -> Kind:
    """The kind of that name; a wrong one raises :class:`ConfigurationError`."""
    if name not in KINDS:
        raise ConfigurationError(f"unknown kind of stage '{name}': use one of {', '.join(KINDS)}")
    return KINDS[name]


def model_task_named(name: str) -> ModelTask:
    """The task of models of that name; a wrong one raises :class:`ConfigurationError`."""
    if name not in MODEL_TASKS:
        raise ConfigurationError(
            f"models of the task '{name}' are not known here; known are {', '.join(MODEL_TASKS)}: "
            "use the version of florence that wrote the model"
        )
    return MODEL_TASKS[name]

"""What the CRD says beyond the types of fields: CEL rules, printer columns, keys of lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic.alias_generators import to_camel

from florence.config import Training
from florence.kinds import KINDS
from florence_operator.api.changes import EDITABLE, RESIZABLE
from florence_operator.api.status import State

Rule = dict[str, Any]

_KINDS = list(KINDS)
_ORDINARY = "self.stages.filter(s, s.name == d).size() > 0"
_STARTED = (
    "has(oldSelf.status) && has(oldSelf.status.stages) && oldSelf.status.stages.exists(t, {})"
)
_OF_STAGE = "t.name == o.name && has(t.attempts) && size(t.attempts) > 0"


def _optional(name: str, field: str) -> str:
    """CEL for two optional fields of a stage before and after being the same."""
    return f"has(n.{field}) == has({name}.{field}) && (!has(n.{field}) || n.{field} == o.{field})"


def _started_stage_keeps(field: str, but_in: Sequence[State] = ()) -> str:
    """CEL for a field of every stage that has attempts staying as it is, but in some states."""
    same = _optional("o", field)
    if but_in:
        same = (
            f"({same} || oldSelf.status.stages.exists(t, t.name == o.name "
            f"&& has(t.state) && t.state in {[state.value for state in but_in]}))"
        )
    return (
        f"oldSelf.spec.stages.all(o, !({_STARTED.format(_OF_STAGE)}) || "
        f"self.spec.stages.all(n, n.name != o.name || {same}))"
    )


def _frozen_once_started(what: str) -> str:
    """CEL for an optional field of the spec staying as it is once any stage has attempts."""
    started = _STARTED.format("has(t.attempts) && size(t.attempts) > 0")
    parts = what.split(".")
    paths = [".".join(["spec", *parts[:end]]) for end in range(1, len(parts) + 1)]
    new, old = (
        " && ".join(f"has({whose}.{path})" for path in paths) for whose in ("self", "oldSelf")
    )
    return (
        f"!({started}) || (({new}) == ({old}) && "
        f"(!({new}) || self.{paths[-1]} == oldSelf.{paths[-1]}))"
    )


_SUCCEEDED = (
    "has(oldSelf.status) && has(oldSelf.status.phase) && "
    f"oldSelf.status.phase == '{State.SUCCEEDED.value}'"
)

ROOT_RULES: list[Rule] = [
    {
        "rule": "has(self.spec.managedBy) == has(oldSelf.spec.managedBy) && "
        "(!has(self.spec.managedBy) || self.spec.managedBy == oldSelf.spec.managedBy)",
        "message": "managedBy cannot be changed: make a job under another name",
        "fieldPath": ".spec.managedBy",
    },
    {
        "rule": f"!({_SUCCEEDED}) || "
        "self.spec.stages.all(n, oldSelf.spec.stages.exists(o, o.name == n.name))",
        "message": "a job that has succeeded takes no more stages: make another job, whose stages "
        "start from this one's model (initialModel)",
        "fieldPath": ".spec.stages",
    },
    {
        "rule": f"oldSelf.spec.stages.all(o, !({_STARTED.format(_OF_STAGE)}) || "
        "self.spec.stages.exists(n, n.name == o.name))",
        "message": "a stage that has started cannot be removed or renamed",
        "fieldPath": ".spec.stages",
    },
    {
        "rule": _started_stage_keeps("dependsOn"),
        "message": "dependsOn of a stage that has started cannot be changed: add a stage, or make "
        "a job under another name",
        "fieldPath": ".spec.stages",
    },
    *(
        {
            "rule": _started_stage_keeps(field, but_in=EDITABLE),
            "message": f"{field} of a stage that has started cannot be changed unless it has "
            "failed: add a stage, or make a job under another name",
            "fieldPath": ".spec.stages",
        }
        for field in ("initialModel", *_KINDS)
    ),
    {
        "rule": _started_stage_keeps("resources", but_in=RESIZABLE),
        "message": "resources of a stage at work cannot be changed: set runPolicy.suspend first, "
        "or wait until it has failed",
        "fieldPath": ".spec.stages",
    },
    *(
        {
            "rule": _frozen_once_started(what),
            "message": f"{what} cannot be changed once a stage has started: make a job under "
            "another name",
            "fieldPath": f".spec.{what}",
        }
        for what in ("model", "artifacts.uri")
    ),
]


def one_length(settings: type[Training]) -> Rule:
    """A stage has steps or epochs, unless it is one that has neither (``closed_form``)."""
    unless = [
        f"has(self.{to_camel(name)}) && self.{to_camel(name)} in {list(values)}"
        for name, values in settings.closed_form.items()
    ]
    return {
        "rule": " || ".join([*unless, "has(self.steps) != has(self.epochs)"]),
        "message": "give exactly one of steps and epochs",
    }


RULES: dict[str, list[Rule]] = {
    "spec": [
        {
            "rule": "self.stages.all(s, self.stages.exists_one(t, t.name == s.name))",
            "message": "two stages have the same name",
            "fieldPath": ".stages",
        },
        {
            "rule": f"self.stages.all(s, !has(s.dependsOn) || s.dependsOn.all(d, {_ORDINARY}))",
            "message": "dependsOn names a stage that the job does not have",
            "fieldPath": ".stages",
        },
    ],
    "spec.stages[]": [
        {
            "rule": "[" + ", ".join(f"has(self.{kind})" for kind in _KINDS) + "]"
            ".filter(given, given).size() == 1",
            "message": f"a stage needs exactly one of {', '.join(_KINDS)}",
        },
        *(
            {
                "rule": f"!has(self.{kind.name}) || has(self.initialModel) || "
                "(has(self.dependsOn) && size(self.dependsOn) > 0)",
                "message": f"{kind.name} needs a model: name the stage that trains it in "
                "dependsOn, or give initialModel",
                "fieldPath": ".dependsOn",
                "reason": "FieldValueRequired",
            }
            for kind in KINDS.values()
            if kind.needs_model
        ),
    ],
    **{
        f"spec.stages[].{kind.name}": [one_length(kind.settings)]
        for kind in KINDS.values()
        if issubclass(kind.settings, Training)
    },
    "spec.pods.volumes[]": [
        {
            "rule": "has(self.persistentVolumeClaim) != has(self.hostPath)",
            "message": "a volume needs exactly one of persistentVolumeClaim and hostPath",
        }
    ],
    "spec.runPolicy": [
        {
            "rule": "!has(self.gang) || self.gang != 'kueue' || has(self.queue)",
            "message": "gang kueue needs a queue: name one in queue, or another gang",
            "fieldPath": ".gang",
        },
        {
            "rule": "!has(self.topology) || (has(self.gang) ? "
            "self.gang in ['kueue', 'volcano'] : has(self.queue))",
            "message": "topology needs gang kueue, with a queue, or gang volcano",
            "fieldPath": ".topology",
        },
        {
            "rule": "!has(self.topology) || !has(self.gang) || self.gang != 'volcano' || "
            "self.backend != 'PyTorchJob'",
            "message": "topology of Volcano needs backend TrainJob",
            "fieldPath": ".topology",
        },
    ],
    "spec.runPolicy.topology": [
        {
            "rule": "has(self.required) != has(self.preferred)",
            "message": "a topology needs exactly one of required and preferred",
        }
    ],
    "spec.runPolicy.retry": [
        {"rule": "self >= oldSelf", "message": "retry may only grow: each raise is one request"}
    ],
}

# Lists whose items have an identity: server-side apply merges them by it.
LIST_KEYS = {
    "spec.stages": ["name"],
    "status.stages": ["name"],
    "status.stages[].conditions": ["type"],
    "status.conditions": ["type"],
}

# Bounds of the status that rules go through. Its stages are some of the spec's, which has 32.
# States are no enumeration, for a newer version may know more of them; they are words all the same.
BOUNDS = {
    "status.phase": {"maxLength": 32},
    "status.stages": {"maxItems": 32},
    "status.stages[].name": {"maxLength": 40},
    "status.stages[].state": {"maxLength": 32},
}

COLUMNS: list[dict[str, Any]] = [
    {"name": "State", "type": "string", "jsonPath": ".status.phase"},
    {"name": "Stage", "type": "string", "jsonPath": ".status.summary.stage"},
    {"name": "Progress", "type": "string", "jsonPath": ".status.summary.progress"},
    {"name": "ETA", "type": "string", "jsonPath": ".status.summary.eta"},
    {"name": "Loss", "type": "string", "jsonPath": ".status.summary.loss"},
    {"name": "Attempts", "type": "integer", "jsonPath": ".status.summary.attempts"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "GPUs", "type": "integer", "jsonPath": ".status.summary.gpus", "priority": 1},
    {"name": "GPU-hours", "type": "string", "jsonPath": ".status.summary.gpuHours", "priority": 1},
    {"name": "Goodput", "type": "string", "jsonPath": ".status.summary.goodput", "priority": 1},
    {
        "name": "Checkpoint",
        "type": "string",
        "jsonPath": ".status.summary.checkpoint",
        "priority": 1,
    },
]

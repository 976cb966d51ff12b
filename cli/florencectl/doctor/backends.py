"""Which kinds of children the cluster takes, and whether somebody runs them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from florence_operator.api.child_kinds import CHILD_KINDS, PYTORCH_JOB, TRAIN_JOB
from florencectl.doctor.checks import Check, available, unseen
from florencectl.levels import Level

Document = Mapping[str, Any]

_CONTROLLERS = {
    PYTORCH_JOB.name: (("Training Operator", "training-operator"),),
    TRAIN_JOB.name: (
        ("Kubeflow Trainer", "trainer-controller-manager"),
        ("JobSet", "jobset-controller-manager"),
    ),
}
"""By kind, who is needed, and what a Deployment of theirs has in its name."""
_INSTALL = {
    PYTORCH_JOB.name: "install the Kubeflow Training Operator 1.9",
    TRAIN_JOB.name: "install Kubeflow Trainer 2.3 or newer, and JobSet",
}


def backends(
    served: Collection[str],
    deployments: Sequence[Document] | None,
    wanted: str = "auto",
    *,
    jobsets: bool = True,
) -> list[Check]:
    """Whether what makes a job's pods is there and runs.

    Args:
        served: the kinds of children that the API server knows.
        wanted: what the job has as ``runPolicy.backend``.
        jobsets: whether it knows JobSets, which TrainJobs are made of.
    """
    kinds = [kind for kind in CHILD_KINDS if kind in served]
    if wanted != "auto" and wanted not in kinds:
        return [
            Check(
                "backend",
                Level.FAIL,
                f"the cluster does not serve {wanted}s, which runPolicy.backend asks for",
                f"{_INSTALL[wanted]}, or set runPolicy.backend to auto",
            )
        ]
    if not kinds:
        return [
            Check(
                "backend",
                Level.FAIL,
                "the cluster serves neither PyTorchJobs nor TrainJobs",
                f"{_INSTALL[PYTORCH_JOB.name]}; or {_INSTALL[TRAIN_JOB.name]}",
            )
        ]
    found = [
        _controller(kind, name, part, deployments)
        for kind in kinds
        for name, part in _CONTROLLERS[kind]
    ]
    if TRAIN_JOB.name in kinds and not jobsets:
        said = "the cluster does not serve jobset.x-k8s.io/v1alpha2 JobSets: no TrainJob gets pods"
        found.append(Check("JobSet CRD", Level.FAIL, said, "install JobSet"))
    return found


def _controller(kind: str, name: str, part: str, deployments: Sequence[Document] | None) -> Check:
    if deployments is None:
        return unseen(name, "Deployments")
    found = [d for d in deployments if part in d["metadata"]["name"]]
    if not found:
        said = f"{kind}s are known, but no Deployment {part} was found"
        return Check(name, Level.WARN, said, f"{_INSTALL[kind]} if nobody runs {kind}s")
    return available(name, found[0])

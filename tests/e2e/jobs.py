"""Small FlorenceJobs, and what became of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from florence_operator.api.attempt_pods import pod_from
from tests.e2e.kube import (
    NAMESPACE,
    Document,
    apply,
    children_kinds,
    eventually,
    get,
    items,
    kubectl,
)

BACKEND = os.environ.get("FLORENCE_E2E_BACKEND") or "auto"
"""What the jobs of these tests have as ``runPolicy.backend``."""

STEPS = 300
EVERY_STEPS = 20


def small_job(name: str, *, workers: int = 2, steps: int = STEPS, **run_policy: Any) -> Document:
    """A minute of training on the digits, with a checkpoint every few steps."""
    return {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "image": "florence-jobs:0.1.0",
            "model": {"preset": "coswin-nano"},
            "artifacts": {
                "uri": "s3://florence/runs",
                "endpoint": "http://minio:9000",
                "credentialsSecret": "minio",
            },
            "stages": [
                {
                    "name": "mixed",
                    "resources": {"workers": workers, "cpu": "200m", "memory": "2Gi"},
                    "pretrain": {
                        "data": "s3://florence/digits/train",
                        "batchSize": 64,
                        "steps": steps,
                        "resolution": 32,
                        "text": {"templates": "digits"},
                        "loader": {"workers": 0},
                        "engine": "torch",
                        "checkpoints": {"everySteps": EVERY_STEPS},
                    },
                }
            ],
            "runPolicy": {"gracePeriod": "20s", "backend": BACKEND, **run_policy},
        },
    }


def submit(job: Document) -> str:
    """Apply a job and return its name."""
    apply(job)
    return str(job["metadata"]["name"])


def submit_file(path: Path) -> str:
    """Apply the job in a file, with the backend of these tests."""
    job = yaml.safe_load(path.read_text())
    job["spec"].setdefault("runPolicy", {})["backend"] = BACKEND
    return submit(job)


def status(name: str) -> Document:
    """The job's status; empty while there is none."""
    job = get("fj", name)
    return (job or {}).get("status", {})


def stage(name: str) -> Document:
    """The status of the job's first stage."""
    stages = status(name).get("stages") or [{}]
    return dict(stages[0])


def attempts(name: str) -> list[Document]:
    """The attempts of the job's first stage."""
    return list(stage(name).get("attempts", []))


def phase(name: str) -> str:
    """The job's state."""
    return str(status(name).get("phase", ""))


def wait_for(name: str, *phases: str, timeout: float = 240) -> Document:
    """The job's status once it is in one of the states; a wrong end fails at once."""

    def arrived() -> Document | None:
        now = status(name)
        state = now.get("phase", "")
        assert state in phases or state not in ("Succeeded", "Failed"), json.dumps(now, indent=1)
        return now if state in phases else None

    return dict(eventually(f"{name} {'/'.join(phases)}", arrived, timeout=timeout))


def wait_for_commit(name: str, step: int = EVERY_STEPS, timeout: float = 180) -> int:
    """The step of the newest checkpoint that the job told of, once there is one."""

    def committed() -> int | None:
        told = (stage(name).get("progress") or {}).get("checkpointStep") or 0
        return told if told >= step else None

    return int(eventually(f"{name} has a checkpoint", committed, timeout=timeout))


def pods(name: str, attempt: int | None = None) -> list[Document]:
    """The pods of a job."""
    labels = f"florence.dev/job={name}"
    return items("pods", labels=labels + (f",florence.dev/attempt={attempt}" if attempt else ""))


def worker(name: str, index: int) -> str:
    """The name of the pod of a job's stage at work that has a number in its gang."""
    found = [(pod_from(pod), pod["metadata"]["name"]) for pod in pods(name)]
    return next(name for pod, name in found if pod is not None and pod.index == index)


def child_kinds_of(name: str) -> list[str]:
    """Of which kind the children of the attempts of the job's first stage were."""
    return [attempt["jobRef"]["kind"] for attempt in attempts(name)]


def leftovers(name: str) -> list[str]:
    """What of a job's children is still there."""
    found = kubectl(
        *("-n", NAMESPACE, "get", ",".join((*children_kinds(), "pods", "jobs.batch"))),
        *("-l", f"florence.dev/job={name}", "-o", "name"),
    ).split()
    # What controllers make on the way to pods carries their labels, not ours.
    others = kubectl("-n", NAMESPACE, "get", "services,jobs.batch", "-o", "name").split()
    return found + [other for other in others if f"/{name}-" in other and other not in found]


def expect_nothing_left(name: str, timeout: float = 90) -> None:
    """No pod, service or child of the job remains."""
    eventually(f"nothing left of {name}", lambda: not leftovers(name), timeout=timeout)


def delete(name: str) -> None:
    """Delete a job and see that nothing is left."""
    kubectl("-n", NAMESPACE, "delete", "fj", name, "--ignore-not-found", "--wait=true")
    expect_nothing_left(name)

"""The metadata of what is made for a job: whose it is, and what finds it."""

from __future__ import annotations

from typing import Any

from florence_operator.api.labels import ATTEMPT_LABEL, JOB_LABEL, STAGE_LABEL, UID_LABEL
from florence_operator.api.v1alpha1 import API_VERSION, KIND, FlorenceJob, Stage


def attempt_labels(job: FlorenceJob, stage: Stage, attempt: int) -> dict[str, str]:
    """The labels of an attempt's child and of its pods."""
    return {
        JOB_LABEL: job.metadata.name,
        UID_LABEL: job.metadata.uid or "",
        STAGE_LABEL: stage.name,
        ATTEMPT_LABEL: str(attempt),
    }


def child_metadata(job: FlorenceJob, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """The metadata of an object that goes with the job."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": name,
        "namespace": job.namespace,
        "labels": dict(labels),
        "ownerReferences": [owner],
    }

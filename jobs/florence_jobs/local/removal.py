"""Delete what a job left."""

from __future__ import annotations

from florence.storage import open_storage
from florence_jobs.local.plans import stage_uri
from florence_operator.api import FlorenceJob


def delete_artifacts(job: FlorenceJob, default_artifacts: str) -> None:
    """Delete every stage's checkpoints, models and results; commits first: readers trust them."""
    s3 = job.spec.artifacts.s3
    for stage in job.spec.stages:
        storage = open_storage(stage_uri(job, stage.name, default_artifacts), s3)
        keys = [entry.key for entry in storage.list()]
        for key in sorted(keys, key=lambda key: not key.startswith("commits/")):
            storage.delete(key)

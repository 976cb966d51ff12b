"""Delete what a job left."""

from __future__ import annotations

from collections.abc import Iterable

from florence.storage import open_storage
from florence_jobs.local.plans import stage_uri
from florence_jobs.local.processes import end_processes
from florence_jobs.local.records import Records
from florence_operator.api import FlorenceJob
from florence_operator.api.stage import GRACE_SECONDS


def delete_job(job: FlorenceJob, records: Records, *, artifacts: bool) -> None:
    """Forget a job that nobody runs, once none of its processes is left.

    Args:
        artifacts: delete what its stages stored as well.

    Raises:
        ConfigurationError: another process runs the job.
    """
    namespace, name = job.namespace, job.metadata.name
    with records.lock(namespace, name):
        end_processes(records.folder(namespace, name), grace=GRACE_SECONDS)
        if artifacts:
            stages = [stage.name for stage in job.spec.stages]
            delete_artifacts(job, records.artifacts_uri, stages)
        records.delete(namespace, name)


def delete_artifacts(job: FlorenceJob, default_artifacts: str, stages: Iterable[str]) -> None:
    """Delete stages' checkpoints, models and results; commits first: readers trust them."""
    s3 = job.spec.artifacts.s3
    for name in stages:
        storage = open_storage(stage_uri(job, name, default_artifacts), s3)
        keys = [entry.key for entry in storage.list()]
        for key in sorted(keys, key=lambda key: not key.startswith("commits/")):
            storage.delete(key)

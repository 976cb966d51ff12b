"""Where the artifacts of a job go."""

from __future__ import annotations

from florence_operator.api.v1alpha1 import FlorenceJob


def artifacts_uri(job: FlorenceJob, stage: str | None = None) -> str:
    """Where a stage's artifacts go, or those of the whole job.

    The uid is part of it: a job that is deleted and applied again must not meet the records of
    its namesake, whose higher attempt numbers would keep it from committing.
    """
    base = (job.spec.artifacts.uri or "").rstrip("/")
    whole = f"{base}/{job.namespace}/{job.metadata.name}-{(job.metadata.uid or '')[:8]}"
    return f"{whole}/{stage}" if stage else whole

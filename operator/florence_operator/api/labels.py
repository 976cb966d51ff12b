"""Labels and annotations of what belongs to a job."""

from __future__ import annotations

JOB_LABEL = "florence.dev/job"
UID_LABEL = "florence.dev/job-uid"
"""Of the job: pods of a deleted one may outlive it and have a namesake."""
STAGE_LABEL = "florence.dev/stage"
ATTEMPT_LABEL = "florence.dev/attempt"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SPEC_HASH = "florence.dev/spec-hash"
"""Annotation of a child."""

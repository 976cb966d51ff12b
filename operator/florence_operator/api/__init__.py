"""FlorenceJob and StagePlan: the documents that users, operator and stages exchange."""

from florence_operator.api.manifest import load_job, to_yaml
from florence_operator.api.stage import StagePlan, load_plan
from florence_operator.api.status import JobStatus, StageStatus, State
from florence_operator.api.v1alpha1 import FlorenceJob, JobSpec, Stage

__all__ = [
    "FlorenceJob",
    "JobSpec",
    "JobStatus",
    "Stage",
    "StagePlan",
    "StageStatus",
    "State",
    "load_job",
    "load_plan",
    "to_yaml",
]

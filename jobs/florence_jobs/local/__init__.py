"""FlorenceJobs on this machine: records, plans and the runner."""

from florence_jobs.local.records import Records
from florence_jobs.local.runner import LocalRunner, Observer, StoppedByUserError

__all__ = ["LocalRunner", "Observer", "Records", "StoppedByUserError"]

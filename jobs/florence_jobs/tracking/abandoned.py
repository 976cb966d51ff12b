"""End the MLflow run of an attempt whose processes were killed, which could not do it themselves.

python -m florence_jobs.tracking.abandoned stage.json PROBLEM
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from florence_jobs.plan_file import read_plan
from florence_jobs.tracking.mlflow_run import MlflowRun
from florence_jobs.tracking.target import run_target


def main(arguments: Sequence[str]) -> int:
    """End the run of a plan's attempt as FAILED, with the problem, if it was left running."""
    path, problem = arguments
    target = run_target(read_plan(Path(path)))
    if target is not None:
        MlflowRun(target).end_abandoned(problem)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A whole pipeline on this machine: KFP's own orchestration, and local FlorenceJobs."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florence.errors import FlorenceError
from florence_jobs.pipelines.definitions import PIPELINES
from florence_jobs.pipelines.running import HERE


class PipelineFailedError(FlorenceError):
    """A step of a pipeline on this machine failed; it has said why."""


def run_here(pipeline: str, arguments: Mapping[str, Any], home: Path) -> Path:
    """Run a pipeline to its end; the folder with its steps' outputs.

    Steps are processes of this Python. Their jobs, models and runs are in the home folder, as
    those of ``florencectl submit --local``.

    Raises:
        PipelineFailedError: a step failed.
    """
    from kfp import local

    folder = home / "pipelines" / f"{pipeline}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    os.environ[HERE] = "1"
    os.environ["FLORENCE_HOME"] = str(home)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder))
    with warnings.catch_warnings():
        # It warns that the image may not be this Python, which is what is meant here.
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            PIPELINES[pipeline](here=True)(**arguments)
        except RuntimeError as error:
            raise PipelineFailedError(
                f"{pipeline}: {str(error).partition(chr(10))[0]}; the step's own lines are above"
            ) from None
    return folder

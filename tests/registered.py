"""Models that a stage left and registered, without the hours of training before."""

from __future__ import annotations

from pathlib import Path

from florence.checkpoint import write_final_model
from florence.storage import open_storage
from florence_jobs.tracking.events import Spill
from florence_jobs.tracking.mlflow_run import MlflowRun, RunTarget
from florence_jobs.tracking.recorder import Tracker
from tests.small_model import CARD, model_files


def stage(
    store: str, folder: Path, job: str, *, top1: float, resolution: int = 32, parent: str = ""
) -> Tracker:
    """A stage that leaves a model in ``folder/job`` and tracks it."""
    run = MlflowRun(
        RunTarget(uri=store, experiment="digits", job=job, stage="s", attempt=1, name=job)
    )
    origin = {"florence.name": job, **({"florence.startedFrom": parent} if parent else {})}
    tracker = Tracker(
        run,
        Spill(folder / f"{job}.jsonl"),
        attempt=1,
        where=store,
        interval_s=0.05,
        experiment="digits",
        origin=origin,
    )
    tracker.dataset("s3://bucket/shards", "0123456789abcdef", 1400, "train")
    tracker.metrics(3, {"digits/top1": top1})
    files = model_files(CARD.model_copy(update={"resolution": resolution}))
    output = open_storage(str(folder / job))
    write_final_model(output, files, attempt=1)
    tracker.model(files, output.url("model"))
    return tracker

"""Runs in this machine's MLflow store that nobody works on any more, and that say they go on.

A stage that is killed has its run ended by the owner of the job. Where the owner was killed too, or
the machine went down, nobody was left to do it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from florence_operator.api.times import unix
from florencectl.local_server import answer

if TYPE_CHECKING:
    from florence_jobs.local import Records

_PROBLEM = "the processes of this run are gone: they were killed, or the machine went down"


def end_abandoned_runs(api: str, experiments: list[str], records: Records) -> None:
    """Mark runs as failed whose job nobody runs on this machine.

    Args:
        api: address of MLflow's interface.
        experiments: where to look.
        records: the jobs of the machine whose store it is.
    """
    found = answer(
        f"{api}/runs/search",
        {
            "experiment_ids": experiments,
            "filter": "attributes.status = 'RUNNING'",
            "max_results": 1000,
        },
    )
    for run in found.get("runs", []):
        tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", ())}
        if _is_abandoned(tags, records):
            ended = _end_of(tags, run["info"], records)
            about = {"run_id": run["info"]["run_id"]}
            note = {**about, "key": "mlflow.note.content", "value": _PROBLEM}
            answer(f"{api}/runs/set-tag", note)
            answer(f"{api}/runs/update", {**about, "status": "FAILED", "end_time": ended})


def _is_abandoned(tags: Mapping[str, str], records: Records) -> bool:
    """Whether it is the run of a job of this machine of which no process is left."""
    from florence_jobs.local.processes import stage_processes

    if "florence.name" not in tags or tags.get("mlflow.source.type") != "LOCAL":
        return False
    job = tags.get("florence.namespace", "default"), tags["florence.name"]
    return records.owner(*job) is None and not stage_processes(records.folder(*job))


def _end_of(tags: Mapping[str, str], run: Mapping[str, Any], records: Records) -> int:
    """When the job gave its last sign of life, in Unix milliseconds, as far as that is known."""
    job = records.current(tags.get("florence.namespace", "default"), tags["florence.name"])
    ended = unix(job.status.completion_time) if job is not None and job.status is not None else None
    return max(int(run["start_time"]), int((ended or 0) * 1000))

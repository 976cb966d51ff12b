"""The MLflow run of a whole job: its stages' runs are nested in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARENT = "mlflow.parentRunId"
"""MLflow's own tag of a nested run."""

_JOB_RUN = "florence.isJob"
_BOOKKEEPING = ("system/", "train/")


class JobRun:
    """Finds or makes the run of a job, and keeps its state that of the job's stages.

    Args:
        job: what identifies the job over all its attempts.
        stage: the stage that this process runs.
        name: what the pages show.
        started: when this stage began, in Unix milliseconds.
        tags: of a new run.
    """

    def __init__(
        self,
        client: Any,
        experiment_id: str,
        *,
        job: str,
        stage: str,
        name: str,
        started: int,
        tags: Mapping[str, str],
    ) -> None:
        self._client, self._experiment = client, experiment_id
        self._job, self._stage, self._name = job, stage, name
        self._started = started
        self._tags = {**tags, "florence.job": job, _JOB_RUN: "true"}
        self.run_id = ""

    def open(self) -> str:
        """Find the job's run, or make it, and mark it as running; its id."""
        found = self._newest()
        if found is None:
            found = self._client.create_run(
                self._experiment, start_time=self._started, tags=self._tags, run_name=self._name
            )
        elif found.info.status != "RUNNING":
            self._client.update_run(found.info.run_id, status="RUNNING")
        self.run_id = str(found.info.run_id)
        return self.run_id

    def close(self, ended: int, results: Mapping[str, float], problem: str | None) -> None:
        """Give the run the results of a stage that ended, and the state of all its stages.

        Args:
            ended: Unix milliseconds.
            results: the newest value of each of the stage's metrics; what matters is taken.
            problem: why the stage failed, if it did.
        """
        from mlflow.entities import Metric, RunTag

        metrics = [
            Metric(name, value, ended, 0)
            for name, value in results.items()
            if not name.startswith(_BOOKKEEPING) and "/" in name
        ]
        note = (
            [RunTag("mlflow.note.content", f"{self._stage}: {problem}"[:8000])] if problem else []
        )
        self._client.log_batch(self.run_id, metrics=metrics[:1000], tags=note)
        stages = self._client.search_runs([self._experiment], f"tags.`{PARENT}` = '{self.run_id}'")
        states = {run.info.status for run in stages}
        if "RUNNING" in states:
            return
        state = next((s for s in ("FAILED", "KILLED") if s in states), "FINISHED")
        self._client.set_terminated(self.run_id, status=state, end_time=ended)

    def _newest(self) -> Any | None:
        job = self._job.replace("'", "")
        runs = self._client.search_runs(
            [self._experiment],
            f"tags.`florence.job` = '{job}' and tags.`{_JOB_RUN}` = 'true'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        return runs[0] if runs else None

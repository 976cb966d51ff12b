"""The MLflow run of a whole job: its stages' runs are nested in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from florence_jobs.tracking.descriptions import DESCRIPTION, described, is_ours

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
        description: on its page.
        sweep: what identifies the sweep that the job is of; its run is nested in the sweep's.
        varied: the settings that vary in it, and the job's values: parameters of a new run.
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
        description: str = "",
        sweep: str | None = None,
        varied: Mapping[str, str] | None = None,
    ) -> None:
        self._client, self._experiment = client, experiment_id
        self._job, self._stage, self._name = job, stage, name
        self._started = started
        self._tags = {**tags, "florence.job": job, _JOB_RUN: "true"}
        self._description = description
        self._sweep, self._varied = sweep, varied or {}
        self.run_id = ""

    def open(self) -> str:
        """Find the job's run, or make it, and mark it as running; its id."""
        found = self._newest()
        if found is None:
            found = self._new()
        elif found.info.status != "RUNNING":
            self._client.update_run(found.info.run_id, status="RUNNING")
        if self._description and is_ours(found.data.tags.get(DESCRIPTION), self._description):
            self._client.set_tag(found.info.run_id, DESCRIPTION, self._description)
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
        told = described(self._description, f"{self._stage}: {problem}"[:7000])
        note = [RunTag(DESCRIPTION, told)] if problem else []
        self._client.log_batch(self.run_id, metrics=metrics[:1000], tags=note)
        stages = self._client.search_runs([self._experiment], f"tags.`{PARENT}` = '{self.run_id}'")
        states = {run.info.status for run in stages}
        if "RUNNING" in states:
            return
        state = next((s for s in ("FAILED", "KILLED") if s in states), "FINISHED")
        self._client.set_terminated(self.run_id, status=state, end_time=ended)

    def _new(self) -> Any:
        from mlflow.entities import Param

        tags = dict(self._tags)
        if self._sweep is not None:
            tags[PARENT] = sweep_run(self._client, self._experiment, self._sweep, self._started)
        run = self._client.create_run(
            self._experiment, start_time=self._started, tags=tags, run_name=self._name
        )
        parameters = [Param(name, value[:6000]) for name, value in self._varied.items()]
        if parameters:
            self._client.log_batch(run.info.run_id, params=parameters)
        return run

    def _newest(self) -> Any | None:
        job = self._job.replace("'", "")
        runs = self._client.search_runs(
            [self._experiment],
            f"tags.`florence.job` = '{job}' and tags.`{_JOB_RUN}` = 'true'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        return runs[0] if runs else None


def sweep_run(client: Any, experiment_id: str, sweep: str, started: int) -> str:
    """The run that those of a sweep's jobs are nested in: found, or made; its id.

    Jobs that begin at once may each make one: the first stays, the others go. It is finished
    from the beginning, since no process outlives all jobs of a sweep to say so.

    Args:
        sweep: what identifies it.
        started: Unix milliseconds.
    """
    tag = "florence.sweep"

    def those() -> list[str]:
        wanted = f"tags.`{tag}` = '{sweep.replace(chr(39), '')}'"
        runs = client.search_runs([experiment_id], wanted)
        runs = sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
        return [str(run.info.run_id) for run in runs]

    if not (found := those()):
        name = sweep.rpartition("/")[2]
        made = client.create_run(
            experiment_id, start_time=started, tags={tag: sweep}, run_name=name
        )
        client.set_terminated(made.info.run_id, status="FINISHED", end_time=started)
        found = those()
        for extra in found[1:]:
            if extra == made.info.run_id:
                client.delete_run(extra)
    return found[0]

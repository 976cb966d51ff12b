"""Events into one MLflow run: the only module that talks to MLflow while a stage runs."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from florence_jobs.registry.registering import parent_of
from florence_jobs.registry.tags import FINGERPRINT, STARTED_FROM
from florence_jobs.registry.tags import PARENT as PARENT_MODEL
from florence_jobs.tracking.descriptions import DESCRIPTION, described, is_ours
from florence_jobs.tracking.events import Event
from florence_jobs.tracking.experiments import connected, experiment_named
from florence_jobs.tracking.job_run import PARENT, JobRun
from florence_jobs.tracking.logged_models import MOST_METRICS, LoggedModels, folder_of
from florence_jobs.tracking.server import check_uri, redacted

MOST_TAGS = 100
"""MLflow's limit per batch."""

TABLES = "mlflow.loggedArtifacts"
"""MLflow's own tag: the tables that its pages show, beside each other for several runs."""

PROBLEM = "florence.problem"
"""Tag of a run that failed, beside the description on its page."""

MOST_MODEL_BYTES = 1 << 30
"""A larger model is linked, not copied: uploads of gigabytes through an MLflow server fail."""

# What MLflow answers when repeating the request can never help.
_HOPELESS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "MALFORMED_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_LIMIT_EXCEEDED",
    "INVALID_STATE",
    "FEATURE_DISABLED",
    "NOT_IMPLEMENTED",
}


class RejectedError(Exception):
    """The server refuses this record for good; the next one may be fine."""


@dataclass(frozen=True, kw_only=True)
class RunTarget:
    """Which run of which server."""

    uri: str
    experiment: str
    job: str
    """What identifies the job over all its attempts."""
    stage: str
    attempt: int
    name: str
    """What the pages show."""
    job_name: str | None = None
    """What they call the run that holds those of all stages of the job; none makes no such run."""
    run_id: str | None = None
    sweep: str | None = None
    """What identifies the sweep that the job is of."""
    varied: Mapping[str, str] = field(default_factory=dict)
    """The settings that vary in it, and the job's values."""
    started: int | None = None
    """When the stage began, in Unix milliseconds; none is when the run is made."""
    tags: Mapping[str, str] | None = None
    job_tags: Mapping[str, str] | None = None
    """Of the run of the job."""
    description: str = ""
    job_description: str = ""


class MlflowRun:
    """One run of an MLflow server, for one thread. Imports MLflow (seconds) when first used."""

    def __init__(self, target: RunTarget) -> None:
        check_uri(target.uri)
        self._target = target
        self._client: Any = None
        self._experiment_id = ""
        self._parameters: dict[str, str] = {}
        self._job: JobRun | None = None
        self._models: Any = None
        self._tables: list[dict[str, str]] = []
        self._since = ""
        self.run_id: str | None = None

    def open(self) -> str:
        """Find the run, or make it, and mark it as running; its id. Nothing when it is open."""
        if self.run_id is not None:
            return self.run_id
        with _translated():
            self._client = connected(self._target.uri)
            self._experiment_id = self._experiment()
            run = self._named_run() or self._found_run()
            if run is not None:
                self._experiment_id = run.info.experiment_id
            tags = {**(self._target.tags or {}), "florence.attempt": str(self._target.attempt)}
            tags |= self._parent_model()
            if self._target.job_name is not None:
                self._job = self._job_run(self._target.job_name)
                tags[PARENT] = self._job.open()
            run = run or self._new_run()
            run_id = str(run.info.run_id)
            if run.info.status != "RUNNING":
                self._client.update_run(run_id, status="RUNNING")
            self._parameters = dict(run.data.params)
            with contextlib.suppress(ValueError):  # somebody else's
                self._tables = json.loads(run.data.tags.get(TABLES, "[]"))
            tags |= self._attempt(run) | self._description(run)
            self._client.log_batch(run_id, tags=_tags(tags))
            self._models = LoggedModels(self._client, self._target.uri, self._experiment_id, run_id)
            self.run_id = run_id
        return run_id

    def join(self) -> str | None:
        """The id of the run that rank 0 of this attempt has made; ``None`` before it has."""
        if self.run_id is None:
            with _translated():
                if self._client is None:
                    self._client = connected(self._target.uri)
                found = self._client.get_experiment_by_name(self._target.experiment)
                if found is None:
                    return None
                self._experiment_id = str(found.experiment_id)
                run = self._named_run() or self._found_run()
                attempt = str(self._target.attempt)
                if run is not None and run.data.tags.get("florence.attempt") == attempt:
                    self.run_id = str(run.info.run_id)
        return self.run_id

    def end_abandoned(self, problem: str) -> bool:
        """End the run as FAILED if the attempt's process ended without having done so.

        Returns:
            Whether it was left running; never where a later attempt has taken it over.
        """
        with _translated():
            self._client = connected(self._target.uri)
            self._experiment_id = self._experiment()
            run = self._named_run() or self._found_run()
            attempt = str(self._target.attempt)
            if run is None or run.info.status != "RUNNING":
                return False
            if run.data.tags.get("florence.attempt") != attempt:
                return False
        self.open()
        told = f"attempt {attempt}: {redacted(problem)}"
        text = described(self._target.description, told)
        self.send(Event("tags", {"values": {PROBLEM: told, DESCRIPTION: text}}))
        about = {"time": milliseconds(), "metrics": {}, "problem": told}
        self.send(Event("finish", {"status": "FAILED", **about}))
        return True

    def send(self, event: Event) -> None:
        """Record one event other than metrics.

        Raises:
            RejectedError: the server refuses it for good.
            Exception: whatever else MLflow raises; the event may be sent again.
        """
        send = getattr(self, f"_send_{event.kind}", None)
        if send is None:  # kept in a file by another version
            raise RejectedError(f"records of kind '{event.kind}' are not known here")
        with _translated():
            send(event)

    def send_metrics(self, events: Sequence[Event]) -> None:
        """Record metric events, as few requests as MLflow allows. Errors as :meth:`send`."""
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, event.data["time"], event.data["step"])
            for event in events
            for key, value in event.data["values"].items()
        ]
        with _translated():
            for start in range(0, len(metrics), MOST_METRICS):
                self._client.log_batch(self.run_id, metrics=metrics[start : start + MOST_METRICS])

    def _experiment(self) -> str:
        return experiment_named(self._client, self._target.uri, self._target.experiment)

    def _named_run(self) -> Any | None:
        from mlflow.exceptions import MlflowException

        if not self._target.run_id:
            return None
        try:
            return self._client.get_run(self._target.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _found_run(self) -> Any | None:
        job, stage = (_quoted(text) for text in (self._target.job, self._target.stage))
        runs = self._client.search_runs(
            [self._experiment_id, *self._own_experiment()],
            f"tags.`florence.job` = '{job}' and tags.`florence.stage` = '{stage}'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        return runs[0] if runs else None

    def _own_experiment(self) -> list[str]:
        """The experiment of this job alone, if it began when every job had one."""
        name = self._target.job_name
        found = self._client.get_experiment_by_name(name) if name else None
        return [found.experiment_id] if found and found.lifecycle_stage == "active" else []

    def _new_run(self) -> Any:
        tags = {"florence.job": self._target.job, "florence.stage": self._target.stage}
        return self._client.create_run(
            self._experiment_id,
            start_time=self._target.started,
            tags=tags,
            run_name=self._target.name,
        )

    def _parent_model(self) -> dict[str, str]:
        """The registered version that the stage starts from, as far as there is one."""
        started = (self._target.tags or {}).get(STARTED_FROM)
        if started is None:
            return {}
        with contextlib.suppress(Exception):  # a server without a registry
            return {PARENT_MODEL: parent_of(self._client, started)}
        return {}

    def _attempt(self, run: Any) -> dict[str, str]:
        """A tag that says since when this attempt runs; one that is there is right."""
        name = f"florence.attempt.{self._target.attempt}"
        known = run.data.tags.get(name, "").rpartition("since ")[2]
        started = milliseconds() if self._target.started is None else self._target.started
        self._since = known or _moment(started)
        return {name: f"RUNNING since {self._since}"}

    def _description(self, run: Any) -> dict[str, str]:
        text = self._target.description
        ours = text and is_ours(run.data.tags.get(DESCRIPTION), text)
        return {DESCRIPTION: text} if ours else {}

    def _job_run(self, name: str) -> JobRun:
        target = self._target
        return JobRun(
            self._client,
            self._experiment_id,
            job=target.job,
            stage=target.stage,
            name=name,
            started=milliseconds() if target.started is None else target.started,
            tags=target.job_tags or {},
            description=target.job_description,
            sweep=target.sweep,
            varied=target.varied,
        )

    def _send_parameters(self, event: Event) -> None:
        """New parameters as such; changed ones as tags, because a parameter cannot change."""
        from mlflow.entities import Param

        wanted: dict[str, str] = event.data["values"]
        new = {key: value for key, value in wanted.items() if key not in self._parameters}
        prefix = f"restart.{event.data['attempt']}."
        changed = {
            f"{prefix}{key}"[:250]: value
            for key, value in wanted.items()
            if key in self._parameters and self._parameters[key] != value[:6000]
        }
        items = list(new.items())
        for start in range(0, len(items), MOST_TAGS):
            part = items[start : start + MOST_TAGS]
            self._client.log_batch(self.run_id, params=[Param(k, v[:6000]) for k, v in part])
            self._parameters |= {k: v[:6000] for k, v in part}
        self._set_tags(changed)

    def _send_tags(self, event: Event) -> None:
        self._set_tags(event.data["values"])

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        every = _tags(tags)
        for start in range(0, len(every), MOST_TAGS):
            self._client.log_batch(self.run_id, tags=every[start : start + MOST_TAGS])

    def _send_dataset(self, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = event.data
        dataset = Dataset(
            name=data["name"][:500],
            digest=data["fingerprint"][:36],
            source_type="florence",
            source=json.dumps({"uri": redacted(data["uri"])}),
            profile=json.dumps({"samples": data["samples"]}),
        )
        tag = InputTag("mlflow.data.context", data["context"])
        self._client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, [tag])])
        about = {"florence.data": redacted(data["uri"]), FINGERPRINT: data["fingerprint"]}
        self._set_tags(about)

    def _send_artifact(self, event: Event) -> None:
        with folder_of(event.files) as folder:
            self._client.log_artifacts(self.run_id, str(folder))
        if tags := event.data.get("tags"):  # kept in a file by an earlier version
            self._set_tags(tags)
        if path := event.data.get("table"):
            table = {"path": path, "type": "table"}
            self._tables = [*(each for each in self._tables if each != table), table]
            self._set_tags({TABLES: json.dumps(self._tables)})

    def _send_linked_model(self, event: Event) -> None:
        self._models.link(event.data)

    def _send_model(self, event: Event) -> None:
        self._models.copy(event)

    def _send_model_metrics(self, event: Event) -> None:
        self._models.measured(event.data)

    def _send_finish(self, event: Event) -> None:
        data = event.data
        ended = f"{data['status']} at {_moment(data['time'])}, since {self._since}"
        self._set_tags({f"florence.attempt.{self._target.attempt}": ended})
        self._client.set_terminated(self.run_id, status=data["status"], end_time=data["time"])
        if self._job is not None:
            self._job.close(data["time"], data["metrics"], data["problem"])


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """MLflow's final refusals as :class:`RejectedError`; anything else passes."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in _HOPELESS:
            raise RejectedError(str(error)) from error
        raise


def _tags(tags: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(key[:250], str(value)[:8000]) for key, value in tags.items()]


def _quoted(text: str) -> str:
    return text.replace("'", "")


def _moment(time_ms: int) -> str:
    """Unix milliseconds as a time of day in UTC."""
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def milliseconds() -> int:
    """Now, as MLflow counts time."""
    return time.time_ns() // 1_000_000

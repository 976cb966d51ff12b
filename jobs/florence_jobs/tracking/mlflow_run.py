"""Events into one MLflow run: the only module that talks to MLflow while a stage runs."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from florence_jobs.tracking.events import Event
from florence_jobs.tracking.server import check_uri, redacted, silence_mlflow

MOST_METRICS = 1000
MOST_TAGS = 100
"""MLflow's limits per batch."""

LONGEST_MODEL_PARAMETER = 500

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
    run_id: str | None = None
    tags: Mapping[str, str] | None = None


class MlflowRun:
    """One run of an MLflow server, for one thread. Imports MLflow (seconds) when first used."""

    def __init__(self, target: RunTarget) -> None:
        check_uri(target.uri)
        self._target = target
        self._client: Any = None
        self._experiment_id = ""
        self._parameters: dict[str, str] = {}
        self.run_id: str | None = None

    def open(self) -> str:
        """Find the run, or make it, and mark it as running; its id. Nothing when it is open."""
        if self.run_id is not None:
            return self.run_id
        with _translated():
            self._client = self._connect()
            self._experiment_id = self._experiment()
            run = self._named_run() or self._found_run() or self._new_run()
            if run.info.status != "RUNNING":
                self._client.update_run(run.info.run_id, status="RUNNING")
            self._experiment_id = run.info.experiment_id
            self._parameters = dict(run.data.params)
            tags = {**(self._target.tags or {}), "florence.attempt": str(self._target.attempt)}
            self._client.log_batch(run.info.run_id, tags=_tags(tags))
            self.run_id = run.info.run_id
        return str(run.info.run_id)

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

    def _connect(self) -> Any:
        silence_mlflow()
        from mlflow import MlflowClient

        if self._target.uri.startswith("sqlite:///"):
            database = Path(self._target.uri.removeprefix("sqlite:///").split("?")[0])
            database.parent.mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=self._target.uri)

    def _experiment(self) -> str:
        name = self._target.experiment
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name, self._artifact_location()))
            except Exception:
                # Another job may have made it in between; if not, the error stands.
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _artifact_location(self) -> str | None:
        """For SQLite a folder beside the file: MLflow's own default is the working directory."""
        if not self._target.uri.startswith("sqlite:///"):
            return None
        database = Path(self._target.uri.removeprefix("sqlite:///").split("?")[0]).absolute()
        folder = re.sub(r"[^\w.-]", "_", self._target.experiment)
        return (database.parent / "mlflow-artifacts" / folder).as_uri()

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
            [self._experiment_id],
            f"tags.`florence.job` = '{job}' and tags.`florence.stage` = '{stage}'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        return runs[0] if runs else None

    def _new_run(self) -> Any:
        tags = {"florence.job": self._target.job, "florence.stage": self._target.stage}
        return self._client.create_run(self._experiment_id, tags=tags, run_name=self._target.name)

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

    def _send_artifact(self, event: Event) -> None:
        with _folder_of(event.files) as folder:
            self._client.log_artifacts(self.run_id, str(folder))
        if tags := event.data.get("tags"):
            self._set_tags(tags)

    def _send_linked_model(self, event: Event) -> None:
        """The final model where its files are too large to copy: MLflow knows where they lie."""
        import mlflow

        data = event.data
        if self._has_model(data):
            return
        mlflow.set_tracking_uri(self._target.uri)
        model = mlflow.create_external_model(
            name=data["name"],
            source_run_id=self.run_id,
            tags=data["tags"],
            params=_short(data["parameters"]),
            experiment_id=self._experiment_id,
        )
        self._describe(model.model_id, data)

    def _send_model(self, event: Event) -> None:
        """The final model as one that ``mlflow models serve`` answers with."""
        from mlflow.models import Model

        from florence_jobs.served_model import write_served_model

        if self._has_model(event.data):
            return
        model = self._client.create_logged_model(
            self._experiment_id,
            name=event.data["name"],
            source_run_id=self.run_id,
            tags=event.data["tags"],
            params=_short(event.data["parameters"]),
        )
        try:
            with tempfile.TemporaryDirectory() as folder, _folder_of(event.files) as files:
                path = Path(folder) / "served"
                description = Model(
                    artifact_path=model.artifact_location,
                    model_uuid=model.model_id,
                    run_id=self.run_id,
                    model_id=model.model_id,
                )
                write_served_model(path, files, description)
                self._client.log_model_artifacts(model.model_id, str(path))
        except BaseException:
            with contextlib.suppress(Exception):
                self._client.finalize_logged_model(model.model_id, "FAILED")
            raise
        self._client.finalize_logged_model(model.model_id, "READY")
        self._describe(model.model_id, event.data)

    def _has_model(self, data: Mapping[str, Any]) -> bool:
        """Whether this attempt recorded that model before: a replay must not make a second one."""
        found = self._client.search_logged_models(
            [self._experiment_id],
            f"source_run_id = '{self.run_id}' and name = '{_quoted(data['name'])}'",
        )
        attempt = data["tags"].get("florence.attempt")
        return any(m.status == "READY" and m.tags.get("florence.attempt") == attempt for m in found)

    def _describe(self, model_id: str, data: Mapping[str, Any]) -> None:
        """Link a model to the run, and say how good it is."""
        from mlflow.entities import LoggedModelOutput, Metric

        step, time = data["step"], data["time"]
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model_id, step=step)])
        metrics = [
            Metric(name, value, time, step, model_id=model_id, run_id=self.run_id)
            for name, value in data["metrics"].items()
        ]
        if metrics:
            self._client.log_batch(self.run_id, metrics=metrics[:MOST_METRICS])

    def _send_finish(self, event: Event) -> None:
        self._client.set_terminated(
            self.run_id, status=event.data["status"], end_time=event.data["time"]
        )


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


@contextlib.contextmanager
def _folder_of(files: Mapping[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as temporary:
        # The folder's own name shows up in a served model: data/files.
        folder = Path(temporary) / "files"
        for name, content in files.items():
            path = folder / PurePosixPath(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield folder


def _tags(tags: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(key[:250], str(value)[:8000]) for key, value in tags.items()]


def _short(parameters: Mapping[str, str]) -> dict[str, str]:
    """Parameters of a model, whose values MLflow limits."""
    return {name: value[:LONGEST_MODEL_PARAMETER] for name, value in parameters.items()}


def _quoted(text: str) -> str:
    return text.replace("'", "")


def milliseconds() -> int:
    """Now, as MLflow counts time."""
    return time.time_ns() // 1_000_000

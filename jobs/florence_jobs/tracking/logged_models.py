"""Trained models in MLflow: what a run left, how good it is, and what it was measured to do."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from florence_jobs.registry.references import parse_reference
from florence_jobs.registry.registering import register
from florence_jobs.registry.tags import MODEL_ID
from florence_jobs.tracking.descriptions import DESCRIPTION
from florence_jobs.tracking.events import Event

MOST_METRICS = 1000
"""MLflow's limit per batch."""

LONGEST_MODEL_PARAMETER = 500

TRAINING = "train/"
"""Metrics of that prefix were measured on the data that the model was trained on."""


class LoggedModels:
    """Records models of one run, each with its metrics, parameters and data."""

    def __init__(self, client: Any, tracking_uri: str, experiment_id: str, run_id: str) -> None:
        self._client, self._tracking_uri = client, tracking_uri
        self._experiment, self._run = experiment_id, run_id

    def link(self, data: Mapping[str, Any]) -> None:
        """Record a model whose files are too large to copy: MLflow knows where they lie."""
        import mlflow

        if (known := self._known(data)) is not None:
            self._register(known, data)
            return
        mlflow.set_tracking_uri(self._tracking_uri)
        model = mlflow.create_external_model(
            name=data["name"],
            source_run_id=self._run,
            tags=data["tags"],
            params=_short(data["parameters"]),
            experiment_id=self._experiment,
        )
        self._describe(model.model_id, data)
        self._register(model.model_id, data)

    def copy(self, event: Event) -> None:
        """Record a model with its files, as one that ``mlflow models serve`` answers with."""
        from mlflow.models import Model

        from florence_jobs.served_model import write_served_model

        if (known := self._known(event.data)) is not None:
            self._register(known, event.data)
            return
        model = self._client.create_logged_model(
            self._experiment,
            name=event.data["name"],
            source_run_id=self._run,
            tags=event.data["tags"],
            params=_short(event.data["parameters"]),
        )
        try:
            with tempfile.TemporaryDirectory() as folder, folder_of(event.files) as files:
                path = Path(folder) / "served"
                description = Model(
                    artifact_path=model.artifact_location,
                    model_uuid=model.model_id,
                    run_id=self._run,
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
        self._register(model.model_id, event.data)

    def measured(self, data: Mapping[str, Any]) -> None:
        """Add what this run measured of a model that another run left, if it is known here."""
        from mlflow.entities import LoggedModelInput

        model_id = self._named(data.get("reference")) or self._left_at(data["uri"])
        if model_id is not None:
            self._client.log_inputs(self._run, models=[LoggedModelInput(model_id)])
            self._log_metrics(model_id, data)

    def _named(self, reference: str | None) -> str | None:
        """The logged model behind a reference to the registry that names one version for good."""
        if reference is None:
            return None
        named = parse_reference(reference)
        if named.model_id is not None:
            return named.model_id
        version = self._client.get_model_version(named.name, named.version)
        return version.tags.get(MODEL_ID) or version.model_id or None

    def _left_at(self, uri: str) -> str | None:
        """The newest model of this experiment that a stage left at a URI."""
        quoted = uri.replace("'", "")
        found = self._client.search_logged_models(
            [self._experiment],
            f"tags.`florence.uri` = '{quoted}'",
            order_by=[{"field_name": "creation_time", "ascending": False}],
        )
        return next((str(model.model_id) for model in found if model.status == "READY"), None)

    def _register(self, model_id: str, data: Mapping[str, Any]) -> None:
        """Make it a version of the registered model; not what an older version kept in a file."""
        if registration := data.get("registration"):
            register(self._client, model_id, self._run, registration)

    def _known(self, data: Mapping[str, Any]) -> str | None:
        """What this attempt recorded of that model before: a replay must not make a second one."""
        name = data["name"].replace("'", "")
        found = self._client.search_logged_models(
            [self._experiment], f"source_run_id = '{self._run}' and name = '{name}'"
        )
        attempt = data["tags"].get("florence.attempt")
        same = (
            m for m in found if m.status == "READY" and m.tags.get("florence.attempt") == attempt
        )
        return next((str(model.model_id) for model in same), None)

    def _describe(self, model_id: str, data: Mapping[str, Any]) -> None:
        """Link a model to the run, and say how good it is."""
        from mlflow.entities import LoggedModelOutput

        self._client.log_outputs(self._run, [LoggedModelOutput(model_id, step=data["step"])])
        use = how_to_use(model_id, data["tags"].get("florence.uri"))
        self._client.set_logged_model_tags(model_id, {DESCRIPTION: use})
        self._log_metrics(model_id, data)

    def _log_metrics(self, model_id: str, data: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        dataset = data.get("dataset") or {}

        def metric(name: str, value: float) -> Any:
            of = dataset if name.startswith(TRAINING) else {}
            return Metric(
                name,
                value,
                data["time"],
                data["step"],
                model_id=model_id,
                run_id=self._run,
                dataset_name=of.get("name"),
                dataset_digest=of.get("digest"),
            )

        metrics = [metric(name, value) for name, value in data["metrics"].items()]
        if metrics:
            self._client.log_batch(self._run, metrics=metrics[:MOST_METRICS])


def how_to_use(model_id: str, uri: str | None) -> str:
    """The text on a model's page, in Markdown.

    Args:
        uri: where its files are as well.
    """
    served = f"`florencectl serve models:/{model_id}` answers over HTTP with this model"
    if uri is None:
        return f"{served}."
    return f"{served}; `florencectl predict {uri} IMAGE…` says what it sees in images."


@contextlib.contextmanager
def folder_of(files: Mapping[str, bytes]) -> Iterator[Path]:
    """A temporary folder that holds these files."""
    with tempfile.TemporaryDirectory() as temporary:
        # The folder's own name shows up in a served model: data/files.
        folder = Path(temporary) / "files"
        for name, content in files.items():
            path = folder / PurePosixPath(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield folder


def _short(parameters: Mapping[str, str]) -> dict[str, str]:
    """Parameters of a model, whose values MLflow limits."""
    return {name: value[:LONGEST_MODEL_PARAMETER] for name, value in parameters.items()}

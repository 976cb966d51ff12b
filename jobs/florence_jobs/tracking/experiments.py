"""MLflow's stores and the experiments in them."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from florence_jobs.tracking.server import silence_mlflow

DEFAULT_EXPERIMENT = "0"
"""MLflow makes it in every new store, for runs that name none; ours all do."""

TRAINING_PAGES = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow's pages show experiments without it as those of chat bots."""


def connected(uri: str) -> Any:
    """A client of a store; a SQLite file is made where it is missing. Imports MLflow (seconds)."""
    silence_mlflow()
    from mlflow import MlflowClient

    database = _file_of(uri)
    fresh = database is not None and not database.exists()
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=uri)
    if fresh:  # empty for ever, and its artifacts would go to the working directory
        with contextlib.suppress(Exception):
            client.delete_experiment(DEFAULT_EXPERIMENT)
    return client


def experiment_named(client: Any, uri: str, name: str) -> str:
    """The id of an experiment, which is made where it is missing and opens on training runs.

    Args:
        uri: of the client's store.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            location = _artifact_location(uri, name)
            return str(client.create_experiment(name, location, tags=TRAINING_PAGES))
        except Exception:
            # Another job may have made it in between; if not, the error stands.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    for tag, value in TRAINING_PAGES.items():
        if tag not in experiment.tags:  # made by hand, or by another program
            client.set_experiment_tag(experiment.experiment_id, tag, value)
    return str(experiment.experiment_id)


def _artifact_location(uri: str, name: str) -> str | None:
    """For SQLite a folder beside the file: MLflow's own default is the working directory."""
    database = _file_of(uri)
    if database is None:
        return None
    folder = re.sub(r"[^\w.-]", "_", name)
    return (database.absolute().parent / "mlflow-artifacts" / folder).as_uri()


def _file_of(uri: str) -> Path | None:
    """The file of a SQLite store."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").split("?")[0])

"""MLflow's addresses, and its import: once, quietly, and never in the middle of a fork."""

from __future__ import annotations

import logging
import os
import re
import threading

from florence.errors import ConfigurationError

_IMPORTING = threading.RLock()
# A process forked while this thread is inside an import inherits half-made modules and their locks,
# and a data loader's worker may then wait for ever. So a fork waits for the import (seconds).
os.register_at_fork(
    before=_IMPORTING.acquire,
    after_in_parent=_IMPORTING.release,
    after_in_child=_IMPORTING.release,
)

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def check_uri(uri: str) -> None:
    """Refuse an address that MLflow cannot track to.

    Raises:
        ConfigurationError: a folder, which MLflow 3 no longer writes to, or an unknown scheme.
    """
    scheme = uri.split(":", 1)[0] if ":" in uri else ""
    base = scheme.split("+", 1)[0]
    if base in ("http", "https", *_DATABASES):
        return
    if scheme in ("", "file"):
        folder = uri.removeprefix("file:").removeprefix("//") or "."
        raise ConfigurationError(
            f"tracking.mlflowUri: '{uri}' is a folder, which MLflow no longer tracks to: "
            f"use sqlite:///{folder.rstrip('/')}/mlflow.db"
        )
    raise ConfigurationError(
        f"tracking.mlflowUri: '{redacted(uri)}' is no address of MLflow: "
        "use http(s)://host:port or sqlite:///path/mlflow.db"
    )


def redacted(uri: str) -> str:
    """The address without user name and password."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


def be_discreet() -> None:
    """No usage reports, short waits, and MLflow's log lines only from warnings on.

    To be called before MLflow is imported. What the user's environment says about it wins.
    """
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_DISABLE_AGENT_HINT": "true",
    }.items():
        os.environ.setdefault(name, value)


def silence_mlflow() -> None:
    """Import what a stage needs of MLflow, and be discreet."""
    be_discreet()
    with _IMPORTING:
        import mlflow.models
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    # urllib3 warns of every retry; an outage is one line of ours.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])

"""``florencectl ui``: MLflow's pages over the runs on this machine."""

from __future__ import annotations

import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from florence.errors import ConfigurationError, MissingExtraError
from florencectl.output import note

HOST = "127.0.0.1"


def ui(
    port: Annotated[
        int, typer.Option(help="Port of the pages.", min=1, max=65535, show_default=True)
    ] = 5000,
) -> None:
    """Serve the metrics of the runs on this machine until interrupted."""
    if find_spec("mlflow") is None:
        raise MissingExtraError("mlflow", "train")
    from florence.home import florence_home

    database = florence_home() / "mlflow.db"
    if not database.is_file():
        raise ConfigurationError(
            f"{database}: no runs yet; run a job with 'florencectl submit -f JOB.yaml --local' "
            "first, or set FLORENCE_HOME"
        )
    if not is_free(port):
        raise ConfigurationError(f"port {port} is taken: choose another one with --port")
    note(f"MLflow on http://{HOST}:{port} (Ctrl-C stops it)")
    command = server_command(database, port)
    # In place of this process, so that whoever stops it stops the server.
    os.execv(command[0], command)


def is_free(port: int) -> bool:
    """Whether nothing on this machine listens on the port."""
    with socket.socket() as probe:
        # As the server does: a port whose last connection just ended is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def server_command(database: Path, port: int) -> list[str]:
    """The command line of an MLflow server over one SQLite file, seen from this machine only."""
    store = f"sqlite:///{database}"
    artifacts = (database.parent / "mlflow-artifacts").as_uri()
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)),
        *("--workers", "1"),  # each takes seconds to start, and there is one reader
        *("--backend-store-uri", store, "--default-artifact-root", artifacts),
    ]

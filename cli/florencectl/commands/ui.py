"""``florencectl ui``: MLflow's pages over the runs on this machine."""

from __future__ import annotations

import os
import subprocess
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
    database = florence_home() / "mlflow.db"
    if not database.is_file():
        raise ConfigurationError(
            f"{database}: no runs yet; run a job with 'florencectl submit -f JOB.yaml --local' first, or set FLORENCE_HOME"
        )
    note(f"MLflow on http://{HOST}:{port} (Ctrl-C stops it)")
    code = subprocess.call(server_command(database, port))
    if code:
        raise typer.Exit(1)


def server_command(database: Path, port: int) -> list[str]:
    """The command line of an MLflow server over one SQLite file, seen from this machine only."""
    store = f"sqlite:///{database}"
    artifacts = (database.parent / "artifacts").as_uri()
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)),
        *("--backend-store-uri", store, "--default-artifact-root", artifacts),
    ]


def florence_home() -> Path:
    """The folder of local runs: ``$FLORENCE_HOME``, or ``~/.florence``."""
    return Path(os.environ.get("FLORENCE_HOME") or "~/.florence").expanduser().resolve()

"""``florencectl ui``: MLflow's pages over the runs on this machine, and TensorBoard's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Annotated

import typer

from florence.errors import ConfigurationError, FlorenceError, MissingExtraError
from florencectl.local_server import HOST, answer, is_up, require_free
from florencectl.output import note

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # processes of its own, for chat bots
    "GIT_PYTHON_REFRESH": "quiet",
}
_SECONDS_TO_END = 10.0


def ui(
    port: Annotated[
        int, typer.Option(help="Port of the pages.", min=1, max=65535, show_default=True)
    ] = 5000,
    browser: Annotated[
        bool | None,
        typer.Option(
            "--browser/--no-browser",
            help="Open the pages in a browser; default: where this machine has a screen.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve the metrics of the runs on this machine until interrupted."""
    if find_spec("mlflow") is None:
        raise MissingExtraError("mlflow", "train")
    from florence.home import florence_home

    home = florence_home()
    if not (home / "mlflow.db").is_file():
        raise ConfigurationError(
            f"{home}/mlflow.db: no runs yet; run a job with 'florencectl submit -f JOB.yaml "
            "--local' first, or set FLORENCE_HOME"
        )
    require_free(port)
    for number in (signal.SIGTERM, signal.SIGHUP):  # end like Ctrl-C, and the server too
        signal.signal(number, signal.default_int_handler)
    note("starting MLflow; Ctrl-C stops it")
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryFile() as log:
        serve(server_command(home / "mlflow.db", port), port, log, home, browser=browser)


def serve(
    command: list[str], port: int, log: IO[bytes], home: Path, *, browser: bool | None
) -> None:
    """Run the server, say where its pages are once there are any, and stay until it ends.

    Where runs have written TensorBoard's logs, its pages are served too.

    Raises:
        FlorenceError: MLflow ended by itself; with its last line.
    """
    servers = [_started(command, log)]
    (mlflow,) = servers
    try:
        while not is_up(f"http://{HOST}:{port}/health", wait=0.2):
            if mlflow.poll() is not None:
                raise FlorenceError(f"MLflow did not start: {_last_line(log)}")
        page = page_of_newest_run(f"http://{HOST}:{port}", home)
        note(f"MLflow on {page}")
        if has_screen() if browser is None else browser:
            import webbrowser

            webbrowser.open(page)
        if has_tensorboard_logs(home / "artifacts"):
            port = free_port_after(port)
            servers.append(_started(tensorboard_command(home / "artifacts", port), log))
            _tell_once_it_answers(servers[-1], f"http://{HOST}:{port}")
        mlflow.wait()
        raise FlorenceError(f"MLflow ended: {_last_line(log)}")
    finally:
        for server in servers:
            _end(server)


def _started(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches this process alone, which ends the whole server.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**_ENVIRONMENT, **os.environ},
        start_new_session=True,
    )


def _tell_once_it_answers(tensorboard: subprocess.Popen[bytes], url: str) -> None:
    while not is_up(url, wait=0.2):
        if tensorboard.poll() is not None:
            note("TensorBoard did not start; MLflow has the same curves")
            return
    note(f"TensorBoard on {url}")


def page_of_newest_run(server: str, home: Path) -> str:
    """The page with the training runs of the experiment that the newest run is in.

    Runs of which no process is left are ended first.

    Args:
        home: the home folder whose store it serves.
    """
    from florence_jobs.local import Records
    from florencectl.abandoned_runs import end_abandoned_runs

    api = f"{server}/api/2.0/mlflow"
    found = answer(f"{api}/experiments/search", {"max_results": 1000})
    experiments = [experiment["experiment_id"] for experiment in found.get("experiments", [])]
    end_abandoned_runs(api, experiments, Records(home))
    newest = answer(
        f"{api}/runs/search",
        {
            "experiment_ids": experiments,
            "max_results": 1,
            "order_by": ["attributes.start_time DESC"],
        },
    )
    runs = newest.get("runs", [])
    if not runs:
        return f"{server}/#/experiments"
    experiment = runs[0]["info"]["experiment_id"]
    # Without the type MLflow shows the pages that it has for chat bots.
    return f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning"


def has_screen() -> bool:
    """Whether a browser that is opened here would be seen."""
    if not sys.stderr.isatty():
        return False
    shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(shown) or sys.platform in ("darwin", "win32")


def server_command(database: Path, port: int) -> list[str]:
    """The command line of an MLflow server over one SQLite file, seen from this machine only."""
    store = f"sqlite:///{database}"
    artifacts = (database.parent / "mlflow-artifacts").as_uri()
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)),
        *("--workers", "1"),  # each takes seconds to start, and there is one reader
        *("--uvicorn-opts", "--log-level warning --no-access-log"),
        *("--backend-store-uri", store, "--default-artifact-root", artifacts),
    ]


def has_tensorboard_logs(artifacts: Path) -> bool:
    """Whether a run has written some (``tracking.tensorboard``), and they can be shown."""
    return find_spec("tensorboard") is not None and any(artifacts.glob("*/*/*/tensorboard"))


def tensorboard_command(artifacts: Path, port: int) -> list[str]:
    """The command line of TensorBoard over every stage's logs, seen from this machine only."""
    program = [sys.executable, "-m", "tensorboard.main"]
    return [*program, "--logdir", str(artifacts), "--host", HOST, "--port", str(port)]


def free_port_after(port: int) -> int:
    """The next port that nothing listens on."""
    while True:
        port = port + 1 if port < 65535 else 1024
        with contextlib.suppress(ConfigurationError):
            require_free(port)
            return port


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and whatever it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(_SECONDS_TO_END)


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")

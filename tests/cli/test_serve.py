"""``florencectl serve``: what it refuses, and what it answers over HTTP."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("mlflow", reason="MLflow is not installed")

from florence_jobs.tracking.events import Spill
from florence_jobs.tracking.mlflow_run import MlflowRun, RunTarget
from florence_jobs.tracking.recorder import Tracker
from florencectl.local_server import HOST
from florencectl.main import app
from tests.gang import free_port
from tests.small_model import model_files, picture, save

RUNNER = CliRunner()
DOCS = Path(__file__).parents[2] / "docs" / "use.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as files, and the same in MLflow's store beside them."""
    root = tmp_path_factory.mktemp("serve")
    save(root / "model")
    picture(0, (300, 300)).save(root / "photo.jpg", format="PNG")  # too long for an argument
    return root


@pytest.fixture(scope="module")
def model_id(folder: Path) -> str:
    """The URI of the model in MLflow's store."""
    store = f"sqlite:///{folder}/mlflow.db"
    run = MlflowRun(RunTarget(uri=store, experiment="e", job="j", stage="s", attempt=1, name="n"))
    tracker = Tracker(run, Spill(folder / "spill.jsonl"), attempt=1, where=store, interval_s=0.05)
    tracker.model(model_files(), "x")
    tracker.close("FINISHED")
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=store)
    (model,) = client.search_logged_models([client.get_run(run.run_id).info.experiment_id])
    return f"models:/{model.model_id}"


@pytest.fixture(autouse=True)
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)


def test_what_it_refuses_before_it_listens(folder: Path, tmp_path: Path) -> None:
    def refused(code: int, *words: str) -> str:
        result = RUNNER.invoke(app, ["serve", *words, "--port", str(free_port())])
        assert result.exit_code == code, result.output
        (line,) = result.stderr.splitlines()
        return line

    assert "no model: there is no config.json" in refused(3, "nowhere")
    assert "device 'abacus' cannot be used" in refused(2, "model", "--device", "abacus")
    (tmp_path / "config.json").write_text("{}")
    assert "not a model's configuration" in refused(3, str(tmp_path))
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = str(other.getsockname()[1])
        result = RUNNER.invoke(app, ["serve", "model", "--port", port])
    assert result.exit_code == 2
    assert f"port {port} of 127.0.0.1 is taken" in result.stderr


def test_an_unknown_model_of_mlflow_is_refused_and_makes_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_id: str
) -> None:
    result = RUNNER.invoke(app, ["serve", "models:/m-0123", "--port", str(free_port())])
    assert result.exit_code == 3
    assert "models:/m-0123: no such model in sqlite:///" in result.stderr
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    result = RUNNER.invoke(app, ["serve", model_id, "--port", str(free_port())])
    assert result.exit_code == 2
    assert "set FLORENCE_HOME or MLFLOW_TRACKING_URI" in result.stderr
    assert not list(tmp_path.iterdir())


class Server:
    """``florencectl serve`` as a process."""

    def __init__(self, output: Path, *words: str) -> None:
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "florencectl.main", "serve", *words,
                 "--port", str(self.port)],
                stdout=file, stderr=file, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        deadline = time.monotonic() + 300
        while "printf" not in self.output():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def output(self) -> str:
        return self._output.read_text()

    def ask(self, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.url}/invocations",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["predictions"]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Any]:
    servers: list[Server] = []

    def start(*words: str) -> Server:
        servers.append(Server(tmp_path / "output", *words))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait()


def shell(command: str) -> Any:
    shown = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(shown.stdout)["predictions"]


def expected(labels: str, image: str = "photo.jpg") -> dict[str, float]:
    """What predict says."""
    words = ["predict", "model", image, "--labels", labels, "-o", "json"]
    (answer,) = json.loads(RUNNER.invoke(app, words).stdout)
    return dict(answer["probabilities"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_folder_is_served_and_asked_as_it_says(folder: Path, serving: Any) -> None:
    server = serving("model")
    printed = server.output().splitlines()[1]
    (answer,) = shell(printed)
    assert answer["probabilities"] == pytest.approx(expected("cat,dog,grey"), abs=1e-5)
    # The requests of the docs.
    requests = [
        block.strip()
        for block in DOCS.read_text().split("\n\n")
        if "/invocations" in block and block.startswith("    ")
    ]
    assert len(requests) == 2
    for request in requests:
        command = "\n".join(line.strip() for line in request.splitlines())
        (told,) = shell(command.replace("127.0.0.1:5001", f"{HOST}:{server.port}"))
        assert told["probabilities"] == pytest.approx(expected("cat,dog"), abs=1e-5)
    # Labels as a line or a list, for all images or each its own.
    image = base64.b64encode((folder / "photo.jpg").read_bytes()).decode()
    wanted = pytest.approx(expected('cat,"dog, grey"'), abs=1e-5)
    for labels in (["cat", "dog, grey"], 'cat, "dog, grey"'):
        common = {"dataframe_records": [{"image": image}], "params": {"labels": labels}}
        own = {"dataframe_records": [{"image": image, "labels": labels}]}
        assert [server.ask(body)[0]["probabilities"] for body in (common, own)] == [wanted] * 2
    named = {"labels": "cat,dog", "templates": "imagenet"}
    assert server.ask({"dataframe_records": [{"image": image}], "params": named})
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.ask({"dataframe_records": [{"image": "/etc/hostname"}]})
    assert refused.value.code == 400
    assert "row 0: image is not base64" in json.load(refused.value)["message"]
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0
    assert len(server.output().splitlines()) == 2, server.output()


@pytest.mark.slow
def test_a_model_of_mlflow_is_served_from_the_store_of_this_machine(
    folder: Path, serving: Any, model_id: str
) -> None:
    before = set(os.listdir(folder))
    server = serving(model_id)
    image = base64.b64encode((folder / "photo.jpg").read_bytes()).decode()
    body = {"dataframe_records": [{"image": image}], "params": {"labels": "cat,dog"}}
    (answer,) = server.ask(body)
    assert answer["probabilities"] == pytest.approx(expected("cat,dog"), abs=1e-5)
    # The fetched copy of the model is kept, and nothing else is written.
    assert set(os.listdir(folder)) - before == {"models"}

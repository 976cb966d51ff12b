"""The tracker against real MLflow stores: SQLite, and servers that fail."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")

from florence.config import Evaluate, ModelConfig, ZeroShot  # noqa: E402
from florence.distributed.world import World  # noqa: E402
from florence.errors import ConfigurationError  # noqa: E402
from florence.storage import open_storage  # noqa: E402
from florence.tasks.pretrain.settings import Pretrain  # noqa: E402
from florence_jobs.local.outcome import end_tracked_run  # noqa: E402
from florence_jobs.system_metrics import SystemSampler  # noqa: E402
from florence_jobs.tracking import abandoned, recorder, server  # noqa: E402
from florence_jobs.tracking.events import Event, Spill  # noqa: E402
from florence_jobs.tracking.job_run import sweep_run  # noqa: E402
from florence_jobs.tracking.making import make_recorder  # noqa: E402
from florence_jobs.tracking.mlflow_run import (  # noqa: E402
    MlflowRun,
    RejectedError,
    RunTarget,
)
from florence_jobs.tracking.node_metrics import NodeMetrics  # noqa: E402
from florence_jobs.tracking.recorder import Tracker  # noqa: E402
from florence_jobs.tracking.target import run_target  # noqa: E402
from florence_operator.api.stage import PlanTracking, StagePlan  # noqa: E402


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SQLite store; making one takes seconds, so tests share it and use jobs of their own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/home/mlflow.db"


@pytest.fixture(scope="module")
def client(store: str) -> Any:
    return mlflow.MlflowClient(tracking_uri=store)


def target(uri: str, job: str, attempt: int = 1, **more: Any) -> RunTarget:
    name = f"{job}/mixed"
    return RunTarget(
        uri=uri, experiment="tests", job=job, stage="mixed", attempt=attempt, name=name, **more
    )


def start(uri: str, job: str, folder: Path, attempt: int = 1, **more: Any) -> Tracker:
    sink = MlflowRun(target(uri, job, attempt))
    spill = Spill(folder / f"{job}.jsonl")
    return Tracker(sink, spill, attempt=attempt, where=uri, interval_s=0.05, **more)


def test_a_run_holds_everything(store: str, client: Any, tmp_path: Path) -> None:
    tracker = start(store, "whole", tmp_path, sampler=SystemSampler())
    tracker.parameters({"optimizer": {"lr": 5e-4}, "data": "x" * 7000, "steps": 250})
    tracker.dataset("s3://bucket/shards/", "0123456789abcdef", 1400, "pretrain")
    for step in range(250):
        tracker.metrics(step, {"train/loss": 1 / (step + 1), "coco/imageToText/R@1": 0.5})
    tracker.table("results", [{"task": "digits", "top1": 0.98}])
    tracker.table("digits/confusion", [{"true class": "0", "0": 5}])
    tracker.picture("digits/confusion", b"\x89PNG")
    tracker.artifact("config/plan.json", b"{}")
    tracker.checkpoint("s3://bucket/runs/whole/mixed#200", 200, {"loss": 0.25})
    tracker.close("FINISHED")
    assert tracker.run_id is not None
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "whole/mixed"
    assert run.data.params["optimizer.lr"] == "0.0005"
    assert len(run.data.params["data"]) == 6000
    history = client.get_metric_history(tracker.run_id, "train/loss")
    assert sorted((m.step, m.value) for m in history) == [(s, 1 / (s + 1)) for s in range(250)]
    assert run.data.metrics["coco/imageToText/R_at_1"] == 0.5
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("shards", "0123456789abcdef")
    assert dataset.tags[0].value == "pretrain"
    assert run.data.tags["florence.data"] == "s3://bucket/shards/"
    assert run.data.tags["florence.dataFingerprint"] == "0123456789abcdef"
    names = {file.path for folder in ("", "pictures/digits", "config")
             for file in client.list_artifacts(tracker.run_id, folder)}  # fmt: skip
    # MLflow's pages list both tables.
    listed = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert [table["path"] for table in listed] == ["results.json", "digits/confusion.json"]
    assert {"results.json", "pictures/digits/confusion.png", "config/plan.json"} <= names
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config/plan.json") == "{}"
    # Artifacts lie beside the database, not in the working directory.
    assert (
        Path(store.removeprefix("sqlite:///")).parent
        in Path(run.info.artifact_uri.removeprefix("file://")).parents
    )
    # A commit is no model: tags name the newest, whatever was said about it is a metric.
    assert run.data.tags["florence.checkpoint"] == "s3://bucket/runs/whole/mixed#200"
    assert run.data.tags["florence.checkpointStep"] == "200"
    (said,) = client.get_metric_history(tracker.run_id, "loss")
    assert (said.step, said.value) == (200, 0.25)
    models = client.search_logged_models([run.info.experiment_id])
    assert [model for model in models if model.source_run_id == tracker.run_id] == []
    assert not list(tmp_path.iterdir())


def test_a_resumed_attempt_continues_its_run(store: str, client: Any, tmp_path: Path) -> None:
    first = start(store, "resumed", tmp_path)
    first.parameters({"lr": 0.1, "batch": 64})
    first.metrics(1, {"loss": 3.0})
    first.close("FAILED")
    assert client.get_run(first.run_id).info.status == "FAILED"
    second = start(store, "resumed", tmp_path, attempt=2)
    second.parameters({"lr": 0.2, "batch": 64, "new": True})
    second.metrics(2, {"loss": 2.0})
    second.close("FINISHED")
    assert second.run_id == first.run_id
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    # A parameter cannot change, so the change is a tag; what is new is a parameter.
    assert run.data.params == {"lr": "0.1", "batch": "64", "new": "true"}
    restarts = {k: v for k, v in run.data.tags.items() if k.startswith("restart.")}
    assert restarts == {"restart.2.lr": "0.2"}
    assert run.data.tags["florence.attempt"] == "2"
    ended = "{} at TIME, since TIME"
    attempts = {n: re.sub(r"[-\d]+T[:\d]+Z", "TIME", run.data.tags[f"florence.attempt.{n}"])
                for n in (1, 2)}  # fmt: skip
    assert attempts == {1: ended.format("FAILED"), 2: ended.format("FINISHED")}
    assert [m.step for m in client.get_metric_history(first.run_id, "loss")] == [1, 2]
    other = start(store, "other", tmp_path)
    other.close("FINISHED")
    assert other.run_id != first.run_id


def test_a_run_id_of_the_plan_wins_and_a_lost_one_does_not_hurt(store: str, client: Any) -> None:
    experiment = client.create_experiment("elsewhere")
    made = client.create_run(experiment).info.run_id
    assert MlflowRun(target(store, "named", run_id=made)).open() == made
    lost = MlflowRun(target(store, "named", run_id="0" * 32))
    assert lost.open() != made


def test_replaying_records_changes_nothing(store: str, client: Any) -> None:
    """What the spill file relies on: a record that is sent twice is there once."""
    run = MlflowRun(target(store, "twice"))
    run.open()
    metric = Event("metrics", {"step": 1, "time": 5, "values": {"loss": 1.5}})
    linked = {"name": "model", "step": 1, "time": 5, "metrics": {"loss": 1.5},
              "parameters": {"a": "1"}, "tags": {"florence.uri": "x"}}  # fmt: skip
    for _ in range(2):
        run.send(Event("parameters", {"attempt": 1, "values": {"a": "1"}}))
        run.send_metrics([metric])
        run.send(Event("artifact", {}, {"a/b.json": b"1"}))
        run.send(Event("linked_model", linked))
    assert len(client.get_metric_history(run.run_id, "loss")) == 1
    models = client.search_logged_models([client.get_run(run.run_id).info.experiment_id])
    (model,) = [m for m in models if m.source_run_id == run.run_id]
    assert (model.name, model.params) == ("model", {"a": "1"})
    assert {m.key: (m.step, m.value) for m in model.metrics} == {"loss": (1, 1.5)}


def test_a_record_of_another_version_is_refused_for_good(store: str) -> None:
    run = MlflowRun(target(store, "unknown"))
    run.open()
    with pytest.raises(RejectedError, match="'checkpoint' are not known"):
        run.send(Event("checkpoint", {"name": "checkpoint-step-1-a1"}))


def test_many_parameters_and_metrics_fit_into_batches(store: str, client: Any) -> None:
    run = MlflowRun(target(store, "many"))
    run.open()
    values = {f"p{n}": str(n) for n in range(250)}
    run.send(Event("parameters", {"attempt": 1, "values": values}))
    events = [
        Event("metrics", {"step": s, "time": 1, "values": {f"m{n}": 1.0 for n in range(30)}})
        for s in range(50)
    ]
    run.send_metrics(events)
    assert client.get_run(run.run_id).data.params == values
    assert len(client.get_metric_history(run.run_id, "m29")) == 50


def test_a_deleted_experiment_comes_back(store: str, client: Any) -> None:
    made = MlflowRun(
        RunTarget(uri=store, experiment="gone", job="a", stage="s", attempt=1, name="n")
    )
    made.open()
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    again = MlflowRun(
        RunTarget(uri=store, experiment="gone", job="b", stage="s", attempt=1, name="n")
    )
    again.open()
    assert client.get_experiment_by_name("gone").lifecycle_stage == "active"


def test_what_mlflow_refuses_for_good_is_told_apart(store: str) -> None:
    run = MlflowRun(target(store, "refused"))
    run.open()
    with pytest.raises(RejectedError, match="Invalid value"):
        run.send_metrics([Event("metrics", {"step": 1, "time": 1, "values": {"R@1": 1.0}})])


class Broken(BaseHTTPRequestHandler):
    """A server that answers 500, or not at all while ``hang`` is set."""

    hang: threading.Event | None = None
    requests = 0

    def answer(self) -> None:
        type(self).requests += 1
        if self.hang is not None:
            self.hang.wait()
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = answer  # noqa: N815  (the names http.server looks for)

    def log_message(self, *_: object) -> None:
        """Tests need no access log."""


@pytest.fixture
def broken_server() -> Iterator[tuple[str, type[Broken]]]:
    handler = type("Handler", (Broken,), {"hang": None, "requests": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    if handler.hang is not None:
        handler.hang.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("kind", ["closed", "500"])
def test_nothing_is_lost_while_a_server_is_away(
    kind: str,
    broken_server: tuple[str, type[Broken]],
    store: str,
    client: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    uri, handler = broken_server if kind == "500" else (closed_port(), Broken)
    job = f"away-{kind}"
    tracker = start(uri, job, tmp_path)
    tracker.parameters({"lr": 0.1})
    for step in range(2000):
        tracker.metrics(step, {"loss": float(step)})
    tracker.picture("confusion", b"png")
    tracker.close("FAILED")
    assert handler.requests > 0 or kind == "closed"
    warnings = [r.getMessage() for r in caplog.records if r.name.startswith("florence_jobs")]
    assert len(warnings) == 1, warnings
    assert uri in warnings[0]
    kept = Spill(tmp_path / f"{job}.jsonl").read()
    assert [e.data["step"] for e in kept if e.kind == "metrics"] == list(range(2000))
    # The server is back for the next attempt.
    again = start(store, job, tmp_path, attempt=2)
    again.metrics(2000, {"loss": 2000.0})
    again.close("FINISHED")
    history = client.get_metric_history(again.run_id, "loss")
    assert sorted(m.step for m in history) == list(range(2001))
    assert all(m.value == m.step for m in history)
    run = client.get_run(again.run_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "0.1"})
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("short_waits")
def test_a_server_that_hangs_holds_up_nothing(
    broken_server: tuple[str, type[Broken]], tmp_path: Path
) -> None:
    uri, handler = broken_server
    handler.hang = threading.Event()
    tracker = start(uri, "hangs", tmp_path)
    while not handler.requests:
        time.sleep(0.01)
    # The request is in the server's hands until hang is set, and all this happens before.
    for step in range(3000):
        tracker.metrics(step, {"loss": 1.0})
    tracker.close("KILLED", timeout_s=0.1)
    assert handler.requests == 1
    assert not handler.hang.is_set()
    kept = Spill(tmp_path / "hangs.jsonl").read()
    assert [e.data["step"] for e in kept if e.kind == "metrics"] == list(range(3000))


def plan(uri: str | None, **changes: Any) -> StagePlan:
    values: dict[str, Any] = {
        "job": "digits",
        "namespace": "team-a",
        "uid": "0123-uid",
        "stage": "mixed",
        "attempt": 1,
        "kind": "pretrain",
        "config": Pretrain(data="builtin:digits/train", batch_size=8, steps=10),
        "model": ModelConfig(preset="coswin-nano"),
        "output": "/runs/digits/mixed",
        "tracking": PlanTracking(mlflow_uri=uri, experiment="tests"),
    }
    return StagePlan(**(values | changes))


def test_rank_0_of_a_tracked_plan_records(
    store: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path))
    output = open_storage(str(tmp_path / "output"))
    for untracked, world in (
        (plan(store), World(rank=1, size=2)),
        (plan(None), World()),
        (plan(store, tracking=None), World()),
    ):
        nothing = make_recorder(untracked, world, output)
        nothing.metrics(1, {"train/loss": 1.0})
        nothing.close("FINISHED")
        assert nothing.run_id is None
    assert not list(tmp_path.iterdir())
    made = make_recorder(plan(store), World(), output)
    made.close("FINISHED")
    run = client.get_run(made.run_id)
    assert run.data.tags["florence.job"] == "0123-uid"
    assert run.data.tags["florence.stage"] == "mixed"
    assert run.data.tags["florence.namespace"] == "team-a"
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/plan/attempt-1.json")
    assert json.loads(text) == plan(store).wire()
    task = ZeroShot(name="digits", data="builtin:digits/test", prompts="digits")
    changed = plan(store, stage="score", kind="evaluate", config=Evaluate(zero_shot=(task,)))
    other = make_recorder(changed, World(), output)
    other.close("FINISHED")
    assert other.run_id != made.run_id
    second = client.get_run(other.run_id)
    # Who made it from what, and both stages in the run of their job.
    assert run.data.tags["mlflow.user"]
    assert run.data.tags["mlflow.source.name"] == "florencejob/team-a/digits"
    assert run.data.tags["mlflow.source.type"] == "LOCAL"
    job = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert second.data.tags["mlflow.parentRunId"] == job.info.run_id
    assert (job.info.run_name, job.info.status) == ("digits", "FINISHED")
    assert job.data.tags["mlflow.user"] == run.data.tags["mlflow.user"]
    assert "florence.kind" not in job.data.tags
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_every_node_tells_how_busy_it_is_in_the_run_of_rank_0(
    store: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path))
    output = open_storage(str(tmp_path / "output"))
    ours = plan(store, job="nodes", uid="nodes-uid")
    world = World(rank=0, size=4, local_rank=0, local_size=2)
    first = make_recorder(ours, world, output)
    first.close("FINISHED")
    beside = make_recorder(ours, replace(world, rank=1, local_rank=1), output)
    assert not isinstance(beside, NodeMetrics)  # its node is rank 0's
    other = make_recorder(ours, replace(world, rank=2), output)
    assert isinstance(other, NodeMetrics)
    other.close("FINISHED")
    # What make_recorder has made, without the ten seconds between samples.
    sampled = threading.Event()

    class Told(MlflowRun):
        def send_metrics(self, events: Any) -> None:
            super().send_metrics(events)
            sampled.set()

    run = Told(run_target(ours))
    other = NodeMetrics(run, SystemSampler(1), interval_s=0.01)
    other.metrics(7, {"train/loss": 1.0})
    assert sampled.wait(60)
    other.close("FINISHED")
    assert run.run_id == first.run_id
    found = client.get_run(first.run_id).data.metrics
    names = {name.split("/")[1] for name in found if "cpu_utilization" in name}
    assert names == {"node-0", "node-1"}
    assert "train/loss" not in found
    (sample, *_) = client.get_metric_history(
        first.run_id, "system/node-1/cpu_utilization_percentage"
    )
    assert sample.step in (0, 7)


def test_a_node_waits_for_the_run_of_its_attempt_and_an_outage_is_one_warning(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = plan(store, job="waits", uid="waits-uid")
    joined = MlflowRun(run_target(ours))
    assert joined.join() is None
    MlflowRun(run_target(ours.model_copy(update={"attempt": 2}))).open()
    assert joined.join() is None
    tries = threading.Semaphore(0)

    class Away:
        def join(self) -> str | None:
            tries.release()
            raise ConnectionError("the server is away")

        def send_metrics(self, events: Any) -> None:
            raise AssertionError

    recorder_ = NodeMetrics(Away(), dict, interval_s=0.001)
    for _ in range(3):
        assert tries.acquire(timeout=60)
    recorder_.close("FAILED")
    warnings = [r.getMessage() for r in caplog.records if "this node" in r.getMessage()]
    assert warnings == ["System metrics of this node are missing: the server is away"]


def test_a_run_names_the_version_that_its_stage_starts_from(store: str, client: Any) -> None:
    uri = "s3://bucket/first/mixed/model"
    tags = {"florence.startedFrom": "s3://bucket/first/mixed"}

    def parent(job: str) -> str:
        run_id = MlflowRun(target(store, job, tags=tags)).open()
        return str(client.get_run(run_id).data.tags["florence.parent"])

    assert parent("unregistered") == "s3://bucket/first/mixed"
    client.create_registered_model("web-contrastive")
    client.create_model_version("web-contrastive", source=uri, tags={"florence.uri": uri})
    assert parent("registered") == "models:/web-contrastive/1"


def test_an_experiment_of_somebody_else_opens_on_training_runs_too(store: str, client: Any) -> None:
    made = client.create_experiment("by-hand")
    chosen = client.create_experiment("chosen", tags={"mlflow.experimentKind": "genai_development"})
    for name in ("by-hand", "chosen"):
        MlflowRun(replace(target(store, name), experiment=name)).open()
    kinds = [client.get_experiment(e).tags["mlflow.experimentKind"] for e in (made, chosen)]
    assert kinds == ["custom_model_development", "genai_development"]


def test_a_stage_that_fails_early_says_why_and_with_which_settings(
    store: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path))
    output = open_storage(str(tmp_path / "output"))
    made = make_recorder(plan(store, job="early", uid="early-uid"), World(), output)
    made.close("FAILED", "no data at s3://bucket/nothing: check the URI")
    run = client.get_run(made.run_id)
    assert run.info.status == "FAILED"
    assert run.info.end_time >= run.info.start_time
    reason = "attempt 1: no data at s3://bucket/nothing: check the URI"
    assert run.data.tags["florence.problem"] == reason
    about = "Stage `mixed` (pretrain) of job `team-a/early`; its artifacts are in `/runs/digits/"
    assert run.data.tags["mlflow.note.content"] == f"{reason}\n\n{about}mixed`."
    assert run.data.params["stage.batchSize"] == "8"
    assert run.data.params["model.image.width"]
    job = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert job.info.status == "FAILED"
    about_job = "Job `team-a/early`; its artifacts are in `/runs/digits`."
    assert job.data.tags["mlflow.note.content"] == f"mixed: {reason}\n\n{about_job}"
    again = make_recorder(plan(store, job="early", uid="early-uid", attempt=2), World(), output)
    again.parameters({"stage": {"batchSize": 8}})
    again.metrics(5, {"validation/held/top1": 0.75, "train/loss": 1.0, "gradient_norm": 2.0})
    again.close("FINISHED")
    assert again.run_id == made.run_id
    job = client.get_run(job.info.run_id)
    assert job.info.status == "FINISHED"
    assert job.data.metrics == {"validation/held/top1": 0.75}
    # What went wrong before is no description of a run that goes on; a user's own words stay.
    run = client.get_run(made.run_id)
    assert run.data.tags["mlflow.note.content"] == f"{about}mixed`."
    assert job.data.tags["mlflow.note.content"] == about_job
    client.set_tag(made.run_id, "mlflow.note.content", "the good one")
    make_recorder(plan(store, job="early", uid="early-uid", attempt=3), World(), output).close(
        "FINISHED"
    )
    assert client.get_run(made.run_id).data.tags["mlflow.note.content"] == "the good one"


def test_a_run_that_began_in_an_experiment_of_its_job_goes_on_there(
    store: str, client: Any
) -> None:
    before = RunTarget(
        uri=store, experiment="own", job="own-uid", stage="mixed", attempt=1, name="own/mixed"
    )
    began = MlflowRun(before).open()
    later = MlflowRun(replace(before, experiment="tests", attempt=2, job_name="own"))
    assert later.open() == began
    parent = client.get_run(began).data.tags["mlflow.parentRunId"]
    assert client.get_run(parent).info.experiment_id == client.get_run(began).info.experiment_id


def test_a_job_runs_as_long_as_one_of_its_stages(store: str, client: Any) -> None:
    def opened(stage: str) -> MlflowRun:
        run = MlflowRun(
            RunTarget(
                uri=store, experiment="tests", job="two", stage=stage, attempt=1, name="n",
                job_name="two",
            )
        )  # fmt: skip
        run.open()
        return run

    def end(run: MlflowRun, status: str) -> str:
        data = {"status": status, "time": 2**41, "metrics": {}, "problem": None}
        run.send(Event("finish", data))
        parent = client.get_run(run.run_id).data.tags["mlflow.parentRunId"]
        return str(client.get_run(parent).info.status)

    one, other = opened("a"), opened("b")
    assert end(one, "FAILED") == "RUNNING"
    assert end(other, "FINISHED") == "FAILED"


def test_a_run_whose_process_was_killed_is_ended_by_the_owner_of_the_job(
    store: str, client: Any, tmp_path: Path
) -> None:
    first = plan(store, job="gone", uid="gone")
    path = tmp_path / "stage.json"
    path.write_text(first.model_dump_json(by_alias=True))
    assert abandoned.main([str(path), "rank 0 was killed"]) == 0  # before it had a run
    sink = MlflowRun(run_target(first))
    run_id = sink.open()
    later = MlflowRun(run_target(first.model_copy(update={"attempt": 2})))
    later.open()  # the next attempt has taken it over
    abandoned.main([str(path), "rank 0 was killed"])
    assert client.get_run(run_id).info.status == "RUNNING"
    path.write_text(first.model_copy(update={"attempt": 2}).model_dump_json(by_alias=True))
    end_tracked_run(path, "rank 0 was killed")
    run = client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["mlflow.note.content"].startswith("attempt 2: rank 0 was killed\n\nStage ")
    assert run.data.tags["florence.attempt.2"].startswith("FAILED at ")
    assert run.info.end_time >= run.info.start_time
    job = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert job.info.status == "FAILED"
    assert "rank 0 was killed" in job.data.tags["mlflow.note.content"]
    abandoned.main([str(path), "again"])
    assert client.get_run(run_id).data.tags == run.data.tags


def test_a_new_store_has_no_experiment_but_ours(tmp_path: Path) -> None:
    """MLflow's own would be empty for ever, and point into the working directory."""
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    MlflowRun(target(uri, "first")).open()
    (experiment,) = mlflow.MlflowClient(tracking_uri=uri).search_experiments()
    assert experiment.name == "tests"
    assert experiment.artifact_location == f"file://{tmp_path}/new/mlflow-artifacts/tests"


def test_an_evaluation_is_linked_to_the_model_that_it_measured(
    store: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = start(store, "measured", tmp_path, model_name="measured-train")
    training.parameters({"stage": {"steps": 3}})
    training.dataset("s3://bucket/shards", "0123456789abcdef", 1400, "train")
    training.metrics(3, {"train/loss": 0.5, "validation/held/top1": 0.8})
    monkeypatch.setattr(recorder, "MOST_MODEL_BYTES", 10)
    training.model({"weights.bin": bytes(11)}, "s3://bucket/measured/model")
    training.close("FINISHED")
    scoring = Tracker(
        MlflowRun(RunTarget(uri=store, experiment="tests", job="measured", stage="score",
                            attempt=1, name="measured/score")),
        Spill(tmp_path / "score.jsonl"), attempt=1, where=store, interval_s=0.05,
    )  # fmt: skip
    scoring.metrics(0, {"digits/top1": 0.84})
    scoring.evaluated("s3://bucket/measured/model", {"digits/top1": 0.84})
    scoring.evaluated("s3://bucket/of-somebody-else/model", {"digits/top1": 0.1})
    scoring.close("FINISHED")
    models = client.search_logged_models([client.get_run(training.run_id).info.experiment_id])
    (model,) = [m for m in models if m.source_run_id == training.run_id]
    assert model.name == "measured-train"
    assert model.params == {"stage.steps": "3"}
    found = {m.key: (m.value, m.dataset_name, m.run_id) for m in model.metrics}
    assert found == {
        "train/loss": (0.5, "shards", training.run_id),
        "validation/held/top1": (0.8, None, training.run_id),
        "digits/top1": (0.84, None, scoring.run_id),
    }
    (linked,) = client.get_run(scoring.run_id).inputs.model_inputs
    assert linked.model_id == model.model_id


def test_a_folder_as_address_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"use sqlite:///.*/mlflow\.db"):
        make_recorder(plan(f"file://{tmp_path}"), World(), open_storage(str(tmp_path)))


def test_a_fork_waits_for_the_import() -> None:
    """Else a data loader's worker may inherit a half-imported module and its lock."""
    order: list[str] = []
    importing = threading.Event()

    def import_slowly() -> None:
        with server._IMPORTING:
            importing.set()
            time.sleep(0.3)
            order.append("imported")

    thread = threading.Thread(target=import_slowly)
    thread.start()
    importing.wait()
    child = os.fork()
    if child == 0:
        os._exit(0)
    order.append("forked")
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert order == ["imported", "forked"]


def test_the_sampler_measures_this_machine() -> None:
    values = SystemSampler()()
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert values["system/process_memory_usage_megabytes"] > 1


def test_mlflow_writes_nothing_to_the_log(
    store: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = start(store, "quiet", tmp_path)
    tracker.metrics(1, {"loss": 1.0})
    tracker.close("FINISHED")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("mlflow").getEffectiveLevel() == logging.WARNING


def test_the_jobs_of_a_sweep_are_nested_in_one_run(store: str, client: Any, tmp_path: Path) -> None:
    runs = []
    for number, rate in enumerate(("1e-4", "3e-4")):
        member = target(
            store,
            f"u-{number}",
            job_name=f"digits-{number}",
            sweep="default/digits",
            varied={"optimizer.lr": rate},
        )
        spill = Spill(tmp_path / f"{number}.jsonl")
        tracker = Tracker(MlflowRun(member), spill, attempt=1, where=store, interval_s=0.05)
        tracker.metrics(1, {"loss": 1.0})
        tracker.close("FINISHED")
        runs.append(client.get_run(tracker.run_id))
    jobs = [client.get_run(run.data.tags["mlflow.parentRunId"]) for run in runs]
    assert [job.data.params for job in jobs] == [{"optimizer.lr": "1e-4"}, {"optimizer.lr": "3e-4"}]
    parents = {job.data.tags["mlflow.parentRunId"] for job in jobs}
    assert len(parents) == 1
    sweep = client.get_run(parents.pop())
    assert (sweep.info.run_name, sweep.info.status) == ("digits", "FINISHED")


def test_two_jobs_that_begin_at_once_share_the_sweeps_run(store: str, client: Any) -> None:
    experiment = client.create_experiment("at-once")

    class Late:
        """Sees the sweep's run of the other job only after making one of its own."""

        def __init__(self) -> None:
            self.made = False

        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def search_runs(self, *arguments: Any, **named: Any) -> Any:
            return client.search_runs(*arguments, **named) if self.made else []

        def create_run(self, *arguments: Any, **named: Any) -> Any:
            self.made = True
            return client.create_run(*arguments, **named)

    first = sweep_run(client, experiment, "default/s", 0)
    second = sweep_run(Late(), experiment, "default/s", 0)
    left = [run.info.run_id for run in client.search_runs([experiment])]
    assert second in left
    assert sweep_run(client, experiment, "default/s", 0) == second == min(first, second)

"""The tracker's own rules: what is queued, kept and delivered. No MLflow here."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.errors import ConfigurationError
from florence_jobs.tracking.events import Event, EventQueue, Spill, flatten, metric_key
from florence_jobs.tracking.mlflow_run import RejectedError
from florence_jobs.tracking.recorder import Tracker
from florence_jobs.tracking.server import check_uri, redacted


class MemorySink:
    """A server in memory that can be away, hang, or refuse."""

    def __init__(self) -> None:
        self.run_id: str | None = None
        self.received: list[Event] = []
        self.away = False
        self.refuses: str | None = None
        self.delivered = threading.Condition()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.attempts = 0

    def open(self) -> str:
        self.entered.set()
        self.gate.wait()
        self.attempts += 1
        if self.away:
            raise ConnectionError("connection refused\nby http://user:secret@host")
        self.run_id = "run"
        return "run"

    def send(self, event: Event) -> None:
        self.send_metrics([event])

    def send_metrics(self, events: Sequence[Event]) -> None:
        if self.away:
            raise ConnectionError("connection refused")
        if any(event.kind == self.refuses for event in events):
            raise RejectedError("no such thing")
        with self.delivered:
            self.received.extend(events)
            self.delivered.notify_all()

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.received if event.kind == kind]

    def steps(self) -> list[int]:
        return [event.data["step"] for event in self.of("metrics")]


@pytest.fixture
def sink() -> Iterator[MemorySink]:
    sink = MemorySink()
    yield sink
    sink.gate.set()


def make(sink: MemorySink, folder: Path, **options: Any) -> Tracker:
    options = {"attempt": 1, "where": "memory", "interval_s": 0.01} | options
    return Tracker(sink, Spill(folder / "spill.jsonl"), **options)


def test_everything_arrives_once_and_in_order(sink: MemorySink, tmp_path: Path) -> None:
    tracker = make(sink, tmp_path)
    tracker.parameters({"optimizer": {"lr": 0.1}, "steps": 3})
    for step in range(500):
        tracker.metrics(step, {"loss": 1 / (step + 1)})
    tracker.close("FINISHED")
    assert sink.steps() == list(range(500))
    assert sink.of("parameters")[0].data["values"] == {"optimizer.lr": "0.1", "steps": "3"}
    assert sink.received[-1].kind == "finish"
    assert sink.received[-1].data["status"] == "FINISHED"
    assert not list(tmp_path.iterdir())


def test_a_server_that_hangs_never_blocks_training(sink: MemorySink, tmp_path: Path) -> None:
    sink.gate.clear()
    tracker = make(sink, tmp_path, capacity=1000)
    assert sink.entered.wait(60)
    # The thread is inside the server now. Training goes through thousands of steps meanwhile.
    for step in range(5000):
        tracker.metrics(step, {"loss": 1.0})
    tracker.picture("digits/confusion", b"png")
    tracker.parameters({"a": 1})
    assert sink.received == []
    tracker.close("KILLED", timeout_s=0.05)
    assert sink.received == []
    # Nothing that fitted into the queue is lost, and the oldest metrics made room for the newest.
    kept = Spill(tmp_path / "spill.jsonl").read()
    assert [e.data["step"] for e in kept if e.kind == "metrics"] == list(range(4000, 5000))
    assert sorted(e.kind for e in kept if e.kind != "metrics") == ["artifact", "parameters"]
    # The next attempt on this machine delivers it.
    later = MemorySink()
    make(later, tmp_path, attempt=2).close("FINISHED")
    sink.gate.set()
    tracker._delivery._thread.join(60)
    assert later.steps() == list(range(4000, 5000))
    assert later.of("artifact")[0].files == {"pictures/digits/confusion.png": b"png"}
    assert [e.data["status"] for e in later.of("finish")] == ["FINISHED"]
    assert not list(tmp_path.iterdir())


def test_what_a_server_missed_is_kept_and_replayed_in_order(
    sink: MemorySink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink.away = True
    spill = Spill(tmp_path / "spill.jsonl")
    tracker = make(sink, tmp_path)
    for step in range(300):
        tracker.metrics(step, {"loss": float(step)})
        if step == 150:
            while len(spill.read()) < 100:
                pass
    sink.away = False
    tracker.metrics(300, {"loss": 0.0})
    tracker.close("FINISHED")
    assert sink.steps() == list(range(301))
    assert [e.data["values"]["loss"] for e in sink.of("metrics")][:300] == list(range(300))
    assert not list(tmp_path.iterdir())
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "does not work; records are kept in" in warnings[0]
    assert "\n" not in warnings[0]
    assert "secret" not in warnings[0]


def test_an_outage_in_the_middle_of_a_batch_repeats_nothing(tmp_path: Path) -> None:
    class Breaking(MemorySink):
        def send(self, event: Event) -> None:
            if event.kind == "artifact" and not self.away:
                self.away = True
            super().send(event)

    sink = Breaking()
    sink.gate.clear()
    tracker = make(sink, tmp_path)
    tracker.parameters({"a": 1})
    tracker.artifact("x.json", b"{}")
    tracker.metrics(1, {"loss": 1.0})
    sink.gate.set()
    tracker.close("FAILED")
    assert [e.kind for e in sink.received] == ["parameters"]
    assert [e.kind for e in Spill(tmp_path / "spill.jsonl").read()] == ["artifact", "metrics"]


def test_a_refused_record_does_not_hold_up_the_others(
    sink: MemorySink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink.refuses = "artifact"
    tracker = make(sink, tmp_path)
    for number in range(3):
        tracker.artifact(f"{number}.json", b"{}")
    tracker.metrics(1, {"loss": 1.0})
    tracker.close("FINISHED")
    assert sink.steps() == [1]
    assert [r.getMessage() for r in caplog.records if "refused" in r.getMessage()] == [
        "Tracking refused a record (artifact): no such thing"
    ]
    assert not list(tmp_path.iterdir())


def test_values_that_are_not_finite_are_counted_not_recorded(
    sink: MemorySink, tmp_path: Path
) -> None:
    tracker = make(sink, tmp_path, attempt=2)
    tracker.metrics(1, {"train/loss": math.nan, "lr": 0.1})
    tracker.metrics(2, {"train/loss": math.inf})
    tracker.close("FINISHED")
    assert [dict(e.data["values"]) for e in sink.of("metrics")] == [{"lr": 0.1}]
    tags = {k: v for e in sink.of("tags") for k, v in e.data["values"].items()}
    assert tags == {"nonfinite.train/loss": "2 in attempt 2, last at step 2"}


def test_system_metrics_are_sampled_at_intervals_and_their_failure_is_harmless(
    sink: MemorySink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = iter(range(0, 10**9, 4000))
    calls = []
    failed = threading.Event()

    def sample() -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            failed.set()
            raise RuntimeError("driver gone")
        return {"system/cpu": 50.0}

    tracker = make(sink, tmp_path, sampler=sample, sample_every_s=8, clock_ms=lambda: next(times))
    assert failed.wait(60)
    tracker.close("FINISHED")
    system = sink.of("metrics")
    assert len(system) == 2
    assert system[1].data["time"] - system[0].data["time"] >= 8000
    assert len(calls) == 3
    assert "System metrics stopped: driver gone" in caplog.text


def test_tables_and_pictures_stay_inside_the_run(sink: MemorySink, tmp_path: Path) -> None:
    tracker = make(sink, tmp_path)
    tracker.table("../../results", [{"a": 1, "b": 2}, {"b": 3, "c": None}])
    tracker.picture("/etc/../passwd", b"png")
    tracker.close("FINISHED")
    table, picture = sink.of("artifact")
    assert json.loads(table.files["results.json"]) == {
        "columns": ["a", "b", "c"],
        "data": [[1, 2, None], [None, 3, None]],
    }
    assert list(picture.files) == ["pictures/etc/passwd.png"]


events = st.builds(
    Event,
    st.sampled_from(["metrics", "tags", "artifact"]),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.floats(allow_nan=False)),
    st.dictionaries(st.sampled_from(["a.png", "b/c.json"]), st.binary(max_size=20)),
)


@given(st.lists(st.lists(events, max_size=4), max_size=4))
@settings(deadline=None)
def test_a_spill_gives_back_what_it_got(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Event]]
) -> None:
    spill = Spill(tmp_path_factory.mktemp("spill") / "spill.jsonl")
    for batch in batches:
        spill.append(batch)
    written = [event for batch in batches for event in batch]
    assert spill.read() == written
    spill.replace(written[1:])
    assert spill.read() == written[1:]
    spill.replace([])
    assert not list(spill.path.parent.iterdir())


def test_a_spill_survives_a_torn_line(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill.jsonl")
    spill.append([Event("tags", {"n": 1}), Event("tags", {"n": 2})])
    whole = spill.path.read_bytes()
    spill.path.write_bytes(whole[:-9])
    spill.append([Event("tags", {"n": 3})])
    assert [event.data["n"] for event in spill.read()] == [1, 3]


def test_a_full_spill_refuses_metrics_only(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill.jsonl", limit_bytes=500)
    metrics = [Event("metrics", {"step": step}) for step in range(100)]
    assert 80 < spill.append(metrics) < 100
    assert spill.append([Event("tags", {})]) == 0
    assert spill.read()[-1].kind == "tags"


def test_a_full_queue_drops_the_oldest_metrics_only() -> None:
    queue = EventQueue(3)
    queue.put(Event("tags", {}))
    for step in range(10):
        queue.put(Event("metrics", {"step": step}))
    taken = queue.take()
    assert taken[0].kind == "tags"
    assert [e.data["step"] for e in taken[1:]] == [7, 8, 9]
    assert queue.take_dropped() == 7
    assert queue.take_dropped() == 0
    assert queue.take() == []


def test_flatten() -> None:
    nested = {"a": {"b": 1, "c": [1, 2], "e": {}}, "d": None, "s": "text", "t": True}
    assert flatten(nested) == {"a.b": "1", "a.c": "[1, 2]", "s": "text", "t": "true"}


@given(st.text(max_size=400) | st.text(alphabet="./a@: ", max_size=8))
@settings(deadline=None)
def test_metric_keys_are_ones_that_mlflow_takes(name: str) -> None:
    import mlflow.utils.validation as mlflow_validation

    mlflow_validation._validate_metric_name(metric_key(name))
    assert len(metric_key(name)) <= 250


def test_known_names_stay_readable() -> None:
    assert metric_key("coco/imageToText/R@1") == "coco/imageToText/R_at_1"
    assert metric_key("digits/baseline/svm-rbf") == "digits/baseline/svm-rbf"


@pytest.mark.parametrize(
    "uri",
    ["http://mlflow:5000", "https://u:p@mlflow", "sqlite:////data/mlflow.db", "sqlite:///m.db",
     "postgresql+psycopg2://db/mlflow", "mysql://db/mlflow"],
)  # fmt: skip
def test_addresses_that_mlflow_tracks_to(uri: str) -> None:
    check_uri(uri)


def test_addresses_that_it_does_not_say_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"use sqlite:////data/runs/mlflow\.db"):
        check_uri("file:///data/runs")
    with pytest.raises(ConfigurationError, match=r"use sqlite:///mlruns/mlflow\.db"):
        check_uri("mlruns")
    with pytest.raises(ConfigurationError, match="no address of MLflow") as caught:
        check_uri("ftp://me:secret@host/x")
    assert "secret" not in str(caught.value)


def test_passwords_do_not_reach_logs() -> None:
    assert redacted("https://me:secret@host:5000/p") == "https://host:5000/p"
    assert redacted("s3://bucket/a@b") == "s3://bucket/a@b"

"""Models in MLflow's real registry: in SQLite, and behind a server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="MLflow is not installed")

from florence.checkpoint import write_final_model
from florence.errors import ConfigurationError, DataError
from florence.loading import load
from florence.models.opening import read_card
from florence.storage import open_storage
from florence_jobs.registry.lineage import lineage
from florence_jobs.registry.promotion import promote
from florence_jobs.registry.references import parse_reference
from florence_jobs.registry.resolving import located, pinned
from florence_jobs.registry.store import ModelRegistry, default_store
from florence_jobs.tracking import recorder
from tests.gang import free_port
from tests.registered import stage
from tests.small_model import CARD, model_files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["sqlite", "server"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """An empty store of each kind; making one takes seconds, so its tests share it."""
    folder = tmp_path_factory.mktemp("registry")
    if request.param == "sqlite":
        yield f"sqlite:///{folder}/mlflow.db"
        return
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}"),
        *("--workers=1", f"--backend-store-uri=sqlite:///{folder}/server.db", "--serve-artifacts"),
        f"--artifacts-destination={folder}/artifacts",
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        time.sleep(0.2)
        return False


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)  # no store may be found by chance


def test_a_model_from_its_stage_to_its_users(store: str, tmp_path: Path) -> None:
    """One story, since every look at a store takes its time."""
    stage(store, tmp_path, "one", top1=0.81, resolution=32).close("FINISHED")
    stage(store, tmp_path, "two", top1=0.82, resolution=64, parent=str(tmp_path / "one")).close(
        "FINISHED"
    )
    registry = ModelRegistry(store)
    assert registry.names() == ["digits-contrastive"]

    # The newest is the candidate, with its card, what it was measured to do, and where it is from.
    found = registry.find(parse_reference("digits-contrastive@candidate"))
    assert (found.version, found.aliases) == ("2", ("candidate",))
    assert found.tags["card.task"] == "contrastive"
    assert found.tags["card.resolution"] == "64"
    assert found.tags["florence.dataFingerprint"] == "0123456789abcdef"
    assert found.metrics == {"digits/top1": 0.82}
    assert [each.facts["job"] for each in lineage(registry, found)] == ["two", "one"]

    # Gates move the champion, or leave it.
    first = promote(
        registry, parse_reference("digits-contrastive/1"), gate="digits/top1 > champion"
    )
    assert (first.moved, first.before) == (True, None)
    gate = "digits/top1 >= champion + 0.05"
    looked = promote(registry, parse_reference("digits-contrastive/2"), gate=gate)
    assert not looked.moved
    assert registry.aliases("digits-contrastive") == {"candidate": "2", "champion": "1"}
    tags = registry.find(parse_reference("digits-contrastive/2")).tags
    assert (tags["florence.gate"], tags["florence.gateResult"]) == (gate, "failed")
    gate = "digits/top1 >= champion + 0.002"
    looked = promote(registry, parse_reference("digits-contrastive/2"), gate=gate, dry_run=True)
    assert looked.moved
    assert registry.aliases("digits-contrastive")["champion"] == "1"
    promote(registry, parse_reference("digits-contrastive/2"), gate=gate)
    assert registry.aliases("digits-contrastive")["champion"] == "2"

    # A name leads to what the stage left, while it is the same, and then to MLflow's copy.
    champion = "models:/digits-contrastive@champion"
    assert pinned(champion, store=store) == "models:/digits-contrastive/2"
    assert located(champion, store=store) == f"{tmp_path}/two/model"
    by_id = f"models:/{found.model_id}"
    assert (pinned(by_id, store=store), located(by_id, store=store)) == (
        by_id,
        f"{tmp_path}/two/model",
    )
    files = model_files(CARD.model_copy(update={"resolution": 96}))
    files["model.safetensors"] += b" "  # the stage ran again and left another model
    write_final_model(open_storage(str(tmp_path / "two")), files, attempt=2)
    copy = located(champion, store=store)
    assert copy != f"{tmp_path}/two/model"
    assert read_card(copy).resolution == 64
    assert located(champion, store=store) == copy
    assert load(copy).embed_texts("a").shape == (1, 64)

    # What does not exist is named, with what does.
    for reference, said in {
        "digits-contrastive/9": "has no version 9",
        "digits-contrastive@best": "has no alias 'best'; there: candidate, champion",
        "other": "no registered model 'other'; there: digits-contrastive",
        "models:/m-0123": "models:/m-0123: no such model in",
    }.items():
        with pytest.raises(DataError, match=said):
            registry.find(parse_reference(reference))


def test_what_was_recorded_twice_is_registered_once(store: str, tmp_path: Path) -> None:
    first = stage(store, tmp_path, "again", top1=0.5)
    first.close("FINISHED")
    registry = ModelRegistry(store)
    before = [version.version for version in registry.versions("digits-contrastive")]
    again = stage(store, tmp_path, "again", top1=0.5)  # of the same attempt: a replay
    again.close("FINISHED")
    assert again.run_id == first.run_id
    assert [v.version for v in registry.versions("digits-contrastive")] == before


def test_a_large_model_is_registered_without_its_files(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MOST_MODEL_BYTES", 10)
    stage(store, tmp_path, "large", top1=0.7).close("FINISHED")
    candidate = "models:/digits-contrastive@candidate"
    assert located(candidate, store=store) == f"{tmp_path}/large/model"
    shutil.rmtree(tmp_path / "large")
    with pytest.raises(DataError, match=r"nor is it still what the stage left at .*/large/model"):
        located(candidate, store=store)


def test_without_a_store_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="set FLORENCE_HOME or MLFLOW_TRACKING_URI"):
        default_store({"FLORENCE_HOME": str(tmp_path)})
    assert default_store({"MLFLOW_TRACKING_URI": "http://mlflow:5000"}) == "http://mlflow:5000"
    (tmp_path / "mlflow.db").touch()
    assert default_store({"FLORENCE_HOME": str(tmp_path)}) == f"sqlite:///{tmp_path}/mlflow.db"

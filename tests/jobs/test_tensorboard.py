"""TensorBoard logs of a stage, read back as TensorBoard reads them."""

from __future__ import annotations

import errno
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorboard", reason="TensorBoard is not installed")

from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from florence.distributed.world import World
from florence.storage import Storage, open_storage
from florence_jobs.tracking.making import make_recorder
from florence_jobs.tracking.tensorboard import TensorBoardRecorder
from florence_operator.api.stage import StagePlan


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 6), 128, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def read(storage: Storage, folder: Path) -> Any:
    """What TensorBoard finds in the logs among the artifacts."""
    folder.mkdir()
    for entry in storage.list("tensorboard/"):
        (folder / entry.key.rpartition("/")[2]).write_bytes(storage.read(entry.key))
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_curves_and_pictures_are_among_the_artifacts(any_storage: Storage, tmp_path: Path) -> None:
    recorder = TensorBoardRecorder(any_storage)
    recorder.parameters({"stage": {"steps": 3}})
    recorder.dataset("s3://bucket/shards", "0123", 1400, "train")
    for step in range(1, 4):
        recorder.metrics(step, {"train/loss": 1 / step, "gradient_norm": math.inf})
    recorder.picture("digits/broken", b"no picture")
    recorder.picture("digits/truncated", png()[:-20])
    recorder.picture("digits/confusion", png())
    recorder.close("FINISHED")
    found = read(any_storage, tmp_path / "read")
    assert [(p.step, p.value) for p in found.Scalars("train/loss")] == [
        (step, pytest.approx(1 / step)) for step in range(1, 4)
    ]
    assert found.Tags()["scalars"] == ["train/loss"]
    assert [(i.width, i.height) for i in found.Images("digits/confusion")] == [(6, 4)]


def test_what_was_recorded_before_a_problem_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    storage = open_storage(str(tmp_path / "stage"))
    recorder = TensorBoardRecorder(storage)
    for step in range(1, 200):
        recorder.metrics(step, {"train/loss": 1 / step})
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_text", full)
    recorder.dataset("s3://bucket/shards", "0123", 1400, "train")
    recorder.metrics(200, {"train/loss": 0.0})
    recorder.close("FINISHED")
    found = read(storage, tmp_path / "read")
    assert [p.step for p in found.Scalars("train/loss")] == list(range(1, 200))


def test_another_attempt_adds_a_file_of_its_own(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "stage"))
    for step in (1, 2):
        recorder = TensorBoardRecorder(storage)
        recorder.metrics(step, {"train/loss": float(step)})
        recorder.close("FAILED", "no more")
    found = read(storage, tmp_path / "read")
    assert sorted(p.step for p in found.Scalars("train/loss")) == [1, 2]


def test_a_plan_that_asks_for_it_has_them_without_mlflow(tmp_path: Path) -> None:
    values = {
        "job": "j", "namespace": "n", "uid": "u", "stage": "s", "attempt": 1, "kind": "pretrain",
        "config": {"data": "/nowhere", "batchSize": 1, "steps": 1},
        "model": {"preset": "coswin-nano"}, "output": str(tmp_path / "stage"),
        "tracking": {"experiment": "e", "tensorboard": True},
    }  # fmt: skip
    storage = open_storage(str(tmp_path / "stage"))
    recorder = make_recorder(StagePlan.model_validate(values), World(), storage)
    recorder.metrics(1, {"train/loss": 0.5})
    recorder.close("FINISHED")
    assert recorder.run_id is None
    assert read(storage, tmp_path / "read").Scalars("train/loss")[0].value == 0.5

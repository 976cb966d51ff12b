"""A trainer of every kind that is killed after a checkpoint: the job ends with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from florence.checkpoint import read_final_model
from florence.storage import open_storage
from tests.cli.test_local_owner import Run, until
from tests.cli.test_submit import finished, write
from tests.florence.tasks.detection import running as detection
from tests.florence.tasks.video import running as video
from tests.florence.tasks.vision_language import running as vision_language

pytestmark = pytest.mark.slow
EVERY = {"steps": 24, "checkpoints": {"everySteps": 3}}


def detector(folder: Path) -> dict[str, Any]:
    return {"detection": detection.settings(detection.scene_shards(folder, 12), **EVERY).wire()}


def of_clips(mode: str, folder: Path) -> dict[str, Any]:
    clips = video.clip_shards(folder, 4)
    return {"video": video.settings(mode, clips, inflate=False, **EVERY).wire()}


def of_texts(kind: str, folder: Path) -> dict[str, Any]:
    make = (
        vision_language.shards_of_questions if kind == "vqa" else vision_language.shards_of_captions
    )
    more = {"leastAnswers": 1} if kind == "vqa" else {}
    return {kind: vision_language.settings(kind, make(folder, 12), **EVERY, **more).wire()}


STAGES = {
    "detection": detector,
    "actions": lambda folder: of_clips("actions", folder),
    "vlp": lambda folder: of_texts("vlp", folder),
    "vqa": lambda folder: of_texts("vqa", folder),
    "caption": lambda folder: of_texts("caption", folder),
}


def weights(run: Run) -> bytes:
    stage = open_storage(str(run.home / "artifacts/default/small/stage"))
    return read_final_model(stage).read("model.safetensors")


@pytest.mark.parametrize("name", STAGES)
def test_a_killed_trainer_goes_on_and_ends_with_the_same_bits(tmp_path: Path, name: str) -> None:
    stage = {"name": "stage", **STAGES[name](tmp_path / "data")}
    document = {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": "small"},
        "spec": {"model": video.MODEL.wire(), "stages": [stage]},
    }
    runs = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = Run(folder)
        write(run.file, document)
        runs.append(run)
    undisturbed, killed = runs
    code, _, err = finished(undisturbed.submit())
    assert code == 0, err

    process = killed.submit()
    until(killed.trains, process)
    _, ranks = killed.launcher_and_ranks()
    ranks[0].kill()
    code, _, err = finished(process)
    assert code == 0, err
    first, second = killed.attempts
    assert first["exitCode"] == 137
    assert second["restoredStep"] > 0
    assert weights(killed) == weights(undisturbed)

"""The evaluation stage: what it leaves behind, and what it refuses."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from florence.config import Evaluate
from florence.errors import ConfigurationError, DataError, StoppedError
from florence.kinds import KINDS
from florence.stages.context import StageContext, StageProgress, Stop
from florence.stages.evaluate import evaluate as evaluate_stage
from tests.florence.stages.test_train import context, run, settings


def evaluate(context: StageContext, settings: Evaluate) -> None:
    evaluate_stage(context, settings, KINDS["evaluate"])


def zero_shot(shards: str, **changes: Any) -> Evaluate:
    task = {"name": "digits", "data": shards, "prompts": "digits", **changes}
    return Evaluate.model_validate({"zeroShot": [task], "workers": 0})


@pytest.fixture(scope="module")
def trained(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(context(folder), settings(shards, steps=1))
    return folder


def test_results_pictures_and_an_example_are_left(
    shards: str, trained: Path, tmp_path: Path
) -> None:
    seen: list[StageProgress] = []
    evaluate(context(tmp_path, start=trained, report=seen.append), zero_shot(shards))
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert set(document["metrics"]) == {"digits/top1", "digits/top5", "digits/meanPerClass"}
    assert document["example"]["labels"][7] == "seven"
    example = Image.open(io.BytesIO((tmp_path / document["example"]["image"]).read_bytes()))
    assert example.size == (32, 32)
    assert list((tmp_path / "pictures").rglob("*.png"))
    steps, totals = [p.step for p in seen[1:]], {p.total for p in seen[1:]}
    assert len(totals) == 1
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, max(totals))
    # Every batch of 256: a stage that is told of nothing meanwhile would be taken for stalled.
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 256


def test_a_stage_that_is_asked_to_stop_stops(shards: str, trained: Path, tmp_path: Path) -> None:
    stop = Stop()
    seen: list[StageProgress] = []

    def report(progress: StageProgress) -> None:
        seen.append(progress)
        if progress.step:
            stop.request()

    with pytest.raises(StoppedError, match="starts over"):
        evaluate(context(tmp_path, start=trained, report=report, stop=stop), zero_shot(shards))
    assert seen[-1].step < seen[-1].total
    assert not (tmp_path / "metrics.json").exists()


def test_without_a_model_or_data_nothing_is_left(
    shards: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="dependsOn"):
        evaluate(context(tmp_path), zero_shot(shards))
    with pytest.raises(DataError, match="nowhere"):
        evaluate(context(tmp_path, start=trained), zero_shot(str(tmp_path / "nowhere")))
    with pytest.raises(ConfigurationError, match="prompts"):
        evaluate(context(tmp_path, start=trained), zero_shot(shards, prompts="/nowhere.yaml"))
    assert not (tmp_path / "metrics.json").exists()

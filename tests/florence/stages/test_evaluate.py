"""The evaluation stage: what it leaves behind, and what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from florence.stages.pretrain import pretrain
from PIL import Image

from florence.config import Evaluate
from florence.errors import ConfigurationError, DataError
from florence.stages.context import StageProgress
from florence.stages.evaluate import evaluate
from tests.florence.stages.test_pretrain import context, settings


def zero_shot(shards: str, **changes: Any) -> Evaluate:
    task = {"name": "digits", "data": shards, "prompts": "digits", **changes}
    return Evaluate.model_validate({"zeroShot": [task], "workers": 0})


@pytest.fixture(scope="module")
def trained(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    pretrain(context(folder), settings(shards, steps=1))
    return folder


def test_results_pictures_and_an_example_are_left(
    shards: str, trained: Path, tmp_path: Path
) -> None:
    seen: list[StageProgress] = []
    evaluate(context(tmp_path, input_model=trained, report=seen.append), zero_shot(shards))
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert set(document["metrics"]) == {"digits/top1", "digits/top5", "digits/meanPerClass"}
    assert document["example"]["labels"][7] == "seven"
    example = Image.open(io.BytesIO((tmp_path / document["example"]["image"]).read_bytes()))
    assert example.size == (32, 32)
    assert list((tmp_path / "pictures").rglob("*.png"))
    assert [(p.step, p.total) for p in seen] == [(0, 1), (1, 1), (1, 1)]


def test_without_a_model_or_data_nothing_is_left(
    shards: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="dependsOn"):
        evaluate(context(tmp_path), zero_shot(shards))
    with pytest.raises(DataError, match="nowhere"):
        evaluate(context(tmp_path, input_model=trained), zero_shot(str(tmp_path / "nowhere")))
    with pytest.raises(ConfigurationError, match="prompts"):
        evaluate(context(tmp_path, input_model=trained), zero_shot(shards, prompts="/nowhere.yaml"))
    assert not (tmp_path / "metrics.json").exists()

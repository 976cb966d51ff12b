"""A training stage on a GPU, on real scans: exact resume, half precision, engines, utilisation."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from florence.checkpoint import read_final_model
from florence.config import ModelConfig
from florence.distributed.world import join
from florence.errors import StoppedError
from florence.kinds import KINDS
from florence.models.stored import read_stored
from florence.stages.context import StageContext, StageProgress, Stop
from florence.stages.train import train
from florence.storage import open_storage
from florence.tasks.pretrain.settings import Pretrain
from tests.florence.running import Recording, stage_context

pytestmark = pytest.mark.cuda

STEPS = 12
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)


def settings(shards: str, **changes: Any) -> Pretrain:
    fields: dict[str, Any] = {
        "data": shards,
        "batchSize": 64,
        "steps": STEPS,
        "resolution": 64,
        "optimizer": {"lr": 1e-3, "warmupSteps": 2},
        "checkpoints": {"everySteps": 4},
        "loader": {"workers": 2},
        "text": {"templates": "digits"},
        "logEverySteps": 1,
        "engine": "torch",
        "dropPath": 0.2,
    }
    return Pretrain.model_validate({**fields, **changes})


def run(folder: Path, config: Pretrain, **given: Any) -> StageContext:
    architecture = ModelConfig.model_validate({"preset": "coswin-nano"}).architecture()
    context = stage_context(folder, architecture, world=join(60.0, {}), **given)
    train(context, config, KINDS["pretrain"])
    return context


def metrics(context: StageContext) -> dict[int, dict[str, float]]:
    recorder = context.recorder
    assert isinstance(recorder, Recording)
    return {step: dict(values) for step, values in recorder.values.items()}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    stored = read_final_model(open_storage(str(folder)))
    return read_stored(stored.read, stored.uri).state


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16", "gradientCacheChunks": 4},
        {"precision": "bf16", "activationCheckpointing": "full", "compile": True},
        pytest.param(
            {"precision": "bf16", "engine": "deepspeed", "zeroStage": 2}, marks=needs_deepspeed
        ),
    ],
    ids=["fp32", "bf16 in chunks", "bf16 compiled", "bf16 ZeRO-2"],
)
def test_a_resumed_run_ends_as_an_undisturbed_one(
    shards: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """To rounding: atomic additions of a GPU's kernels come in no fixed order."""
    config = settings(shards, **changes)
    whole = metrics(run(tmp_path / "whole", config))
    stop = Stop()

    def report(progress: StageProgress) -> None:
        if progress.phase == "train" and progress.step == 5:
            stop.request()

    with pytest.raises(StoppedError):
        run(tmp_path / "resumed", config, report=report, stop=stop)
    restored: set[int | None] = set()
    resumed = run(
        tmp_path / "resumed", config, attempt=2, report=lambda p: restored.add(p.restored_step)
    )
    first = min(metrics(resumed))
    assert first - 1 in restored
    # The next step's loss follows from weights, data and random numbers alone, all restored.
    tolerance = 1e-4 if config.precision.value == "fp32" else 1e-2
    assert metrics(resumed)[first]["train/loss"] == pytest.approx(
        whole[first]["train/loss"], rel=tolerance
    )
    assert metrics(resumed)[STEPS]["train/loss"] == pytest.approx(
        whole[STEPS]["train/loss"], rel=0.05
    )
    assert weights(tmp_path / "resumed").keys() == weights(tmp_path / "whole").keys()


def test_deterministic_algorithms_make_a_resume_equal_to_the_bit(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    config = settings(shards)
    torch.use_deterministic_algorithms(True)
    try:
        run(tmp_path / "whole", config)
        stop = Stop()

        def report(progress: StageProgress) -> None:
            if progress.phase == "train" and progress.step == 5:
                stop.request()

        with pytest.raises(StoppedError):
            run(tmp_path / "resumed", config, report=report, stop=stop)
        run(tmp_path / "resumed", config, attempt=2)
    finally:
        torch.use_deterministic_algorithms(False)
    expected, resumed = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_utilisation_and_memory_are_told(shards: str, tmp_path: Path) -> None:
    seen: list[StageProgress] = []
    values = metrics(run(tmp_path, settings(shards, precision="bf16"), report=seen.append))
    last = values[STEPS]
    assert 0 < last["mfu"] <= last["hfu"] < 1
    assert max(p.memory_bytes or 0 for p in seen) > 100 * 2**20

"""The pretraining stage on real scans: exact resume, clean stops, divergence, refusals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from florence.checkpoint import newest, read_final_model
from florence.config import ModelConfig, Pretrain
from florence.config.storage import S3Settings
from florence.distributed.world import World
from florence.errors import ConfigurationError, DataError, DivergedError, StoppedError
from florence.models.stored import read_model
from florence.stages.context import StageContext, StageProgress, Stop
from florence.stages.pretrain import pretrain
from florence.storage import open_storage
from florence.text.templates import DIGITS
from tests.gang import run_gang

MODEL = ModelConfig.model_validate(
    {
        "preset": "coswin-nano",
        "image": {"width": 16, "dropPath": 0.2},
        "text": {"width": 32, "hidden": 64, "layers": 1},
        "embedDim": 16,
    }
)
STEPS = 6
# Key biases have no gradient but rounding errors, which Adam enlarges.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


class Recording:
    """A recorder that remembers."""

    run_id = None

    def __init__(self) -> None:
        self.values: dict[int, Mapping[str, float]] = {}
        self.checkpoints: list[int] = []
        self.given: dict[str, Any] = {}
        self.files: Mapping[str, bytes] = {}

    def parameters(self, parameters: Mapping[str, Any]) -> None:
        self.given.update(parameters)

    def dataset(self, uri: str, fingerprint: str, samples: int, context: str) -> None:
        self.given["dataset"] = (uri, samples)

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self.values[step] = metrics

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def picture(self, name: str, png: bytes) -> None: ...

    def checkpoint(self, uri: str, step: int, metrics: Mapping[str, float]) -> None:
        self.checkpoints.append(step)

    def model(self, files: Mapping[str, bytes], uri: str) -> None:
        self.files = files


def settings(shards: str, **changes: Any) -> Pretrain:
    fields: dict[str, Any] = {
        "data": shards,
        "batchSize": 16,
        "steps": STEPS,
        "resolution": 16,
        "optimizer": {"lr": 1e-3, "warmupSteps": 2},
        "checkpoints": {"everySteps": 2},
        "loader": {"workers": 0},
        "text": {"templates": "digits"},
        "logEverySteps": 1,
        "engine": "torch",
    }
    return Pretrain.model_validate({**fields, **changes})


def context(
    folder: Path,
    *,
    attempt: int = 1,
    world: World | None = None,
    input_model: Path | None = None,
    report: Callable[[StageProgress], None] = lambda progress: None,
    stop: Stop | None = None,
) -> StageContext:
    return StageContext(
        architecture=MODEL.architecture(),
        output=open_storage(str(folder)),
        input_model=open_storage(str(input_model)) if input_model else None,
        s3=S3Settings(),
        attempt=attempt,
        facts={"job": "test", "stage": "mixed"},
        world=world or World(),
        recorder=Recording(),
        report=report,
        clock=time.time,
        stop=stop or Stop(),
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    stored = read_final_model(open_storage(str(folder)))
    model, _ = read_model(stored.read, source=stored.uri)
    return model.state_dict()


def run_until(folder: Path, config: Pretrain, step: int, world: World | None = None) -> None:
    """Run attempt 1 and stop it as SIGTERM would, while step ``step`` is reported."""
    stop = Stop()

    def report(progress: StageProgress) -> None:
        if progress.phase == "train" and progress.step == step:
            stop.request()

    with pytest.raises(StoppedError, match=f"after step {step}"):
        pretrain(context(folder, report=report, stop=stop, world=world), config)


@pytest.fixture(scope="session")
def whole(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run in one process."""
    folder = tmp_path_factory.mktemp("whole")
    pretrain(context(folder), settings(shards))
    return folder


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_resumed_run_ends_with_the_same_bits(
    shards: str, whole: Path, tmp_path: Path, step: int
) -> None:
    run_until(tmp_path, settings(shards), step)
    restored: set[int | None] = set()
    pretrain(
        context(tmp_path, attempt=2, report=lambda p: restored.add(p.restored_step)),
        settings(shards),
    )
    assert step in restored
    expected, resumed = weights(whole), weights(tmp_path)
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def _gang_run(folder: Path, config: Pretrain, attempt: int, stop_at: int | None) -> None:
    world = World(dist.get_rank(), dist.get_world_size(), dist.get_rank(), dist.get_world_size())
    # One rank alone is asked to stop: all have to agree.
    if stop_at is not None and world.rank == 0:
        run_until(folder, config, stop_at, world)
    elif stop_at is not None:
        with pytest.raises(StoppedError):
            pretrain(context(folder, attempt=attempt, world=world), config)
    else:
        pretrain(context(folder, attempt=attempt, world=world), config)


def test_a_run_moves_between_one_two_and_four_ranks(shards: str, tmp_path: Path) -> None:
    # Drop path draws per rank, so that only without it the number of ranks cannot matter.
    config = settings(shards, dropPath=0.0)
    pretrain(context(tmp_path / "one"), config)
    run_gang(_gang_run, 2, tmp_path / "moved", config, 1, 2)
    run_gang(_gang_run, 4, tmp_path / "moved", config, 2, None)
    expected, moved = weights(tmp_path / "one"), weights(tmp_path / "moved")
    for name in expected:
        torch.testing.assert_close(moved[name], expected[name], **CLOSE)


def test_progress_metrics_and_checkpoints_are_told(shards: str, tmp_path: Path) -> None:
    seen: list[StageProgress] = []
    told = context(tmp_path, report=seen.append)
    pretrain(told, settings(shards))
    recorder = told.recorder
    assert isinstance(recorder, Recording)
    assert sorted(recorder.values) == [1, 2, 3, 4, 5, 6]
    assert recorder.checkpoints == [2, 4, 6]
    assert recorder.values[6]["train/samples"] == 96
    assert recorder.given["dataset"] == (shards, 1400)
    assert set(recorder.files) == {"model.safetensors", "config.json"}
    phases = list(dict.fromkeys(progress.phase for progress in seen))
    assert phases == ["start", "train", "checkpoint", "export"]
    steps = [progress.step for progress in seen if progress.phase == "train"]
    assert steps == sorted(steps)
    assert seen[-1].checkpoint_step == STEPS


def test_a_checkpoint_of_other_settings_is_refused_by_field(shards: str, tmp_path: Path) -> None:
    run_until(tmp_path, settings(shards), 3)
    changed = settings(shards, optimizer={"lr": 5e-4, "warmupSteps": 2})
    with pytest.raises(ConfigurationError, match=r"optimizer\.lr: 0\.001 -> 0\.0005"):
        pretrain(context(tmp_path, attempt=2), changed)


def test_divergence_ends_with_the_step_and_keeps_the_last_good_commit(
    shards: str, tmp_path: Path
) -> None:
    wild = settings(
        shards,
        steps=40,
        optimizer={"lr": 1e30, "warmupSteps": 0, "clipNorm": 0},
        nanBudget=2,
        checkpoints={"everySteps": 1},
    )
    with pytest.raises(DivergedError, match=r"step \d+: .* 3 times in a row \(nanBudget 2\)"):
        pretrain(context(tmp_path), wild)


def test_a_stage_continues_from_the_model_of_the_one_before(
    shards: str, whole: Path, tmp_path: Path
) -> None:
    """With another window, so that bias tables change and nothing else does."""
    next_stage = settings(
        shards, steps=1, window=2, optimizer={"lr": 1e-12, "warmupSteps": 0}, excludeAugmented=True
    )
    told = context(tmp_path, input_model=whole)
    pretrain(told, next_stage)
    continued, before = weights(tmp_path), weights(whole)
    assert torch.allclose(continued["logit_scale"], before["logit_scale"])
    tables = [name for name in before if name.endswith("bias_table")]
    assert tables
    assert any(continued[name].shape != before[name].shape for name in tables)
    others = [name for name in before if name not in tables]
    assert all(torch.allclose(continued[name], before[name], atol=1e-6) for name in others)


def test_the_card_has_the_sentences_that_texts_were_put_into(whole: Path) -> None:
    stored = read_final_model(open_storage(str(whole)))
    _, card = read_model(stored.read, source=stored.uri)
    assert (card.task, card.templates) == ("contrastive", DIGITS)


def test_a_missing_model_and_missing_data_are_told(shards: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished model"):
        pretrain(context(tmp_path / "a", input_model=tmp_path / "nothing"), settings(shards))
    with pytest.raises(DataError, match="nowhere"):
        pretrain(context(tmp_path / "b"), settings(str(tmp_path / "nowhere")))
    assert newest(open_storage(str(tmp_path / "b"))) is None


def test_speed_and_memory_settings_do_not_change_the_result(shards: str, tmp_path: Path) -> None:
    # Without drop path, whose masks are drawn chunk by chunk.
    plain, thrifty = (
        settings(shards, dropPath=0.0),
        settings(
            shards,
            dropPath=0.0,
            gradientCacheChunks=4,
            activationCheckpointing="full",
            loader={"workers": 2},
        ),
    )
    pretrain(context(tmp_path / "plain"), plain)
    pretrain(context(tmp_path / "thrifty"), thrifty)
    expected, got = weights(tmp_path / "plain"), weights(tmp_path / "thrifty")
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **CLOSE)

"""A training stage on real scans: exact resume, clean stops, divergence, refusals, evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError

from florence.checkpoint import newest, read_final_model, read_whole
from florence.config import ModelConfig
from florence.config.storage import S3Settings
from florence.data.indexing import index_data
from florence.distributed.world import World
from florence.errors import (
    ConfigurationError,
    DataError,
    DivergedError,
    StoppedError,
    TransientError,
)
from florence.kinds import KINDS
from florence.models.stored import read_stored
from florence.stages.context import InputModel, StageContext, StageProgress, Stop
from florence.stages.train import as_used, train
from florence.storage import open_storage
from florence.tasks.pretrain.settings import Pretrain
from florence.text.templates import DIGITS
from tests.florence.data.making import sample, write_samples
from tests.florence.running import Recording, stage_context
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


def context(folder: Path, **given: Any) -> StageContext:
    return stage_context(folder, MODEL.architecture(), **given)


def run(context: StageContext, config: Pretrain) -> None:
    train(context, config, KINDS["pretrain"])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    stored = read_final_model(open_storage(str(folder)))
    return read_stored(stored.read, stored.uri).state


def run_until(
    folder: Path, config: Pretrain, step: int, world: World | None = None, attempt: int = 1
) -> None:
    """Run an attempt and stop it as SIGTERM would, while step ``step`` is reported."""
    stop = Stop()

    def report(progress: StageProgress) -> None:
        if progress.phase == "train" and progress.step == step:
            stop.request()

    with pytest.raises(StoppedError, match=f"after step {step}"):
        run(context(folder, attempt=attempt, report=report, stop=stop, world=world), config)


@pytest.fixture(scope="session")
def whole(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run in one process."""
    folder = tmp_path_factory.mktemp("whole")
    run(context(folder), settings(shards))
    return folder


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_resumed_run_ends_with_the_same_bits(
    shards: str, whole: Path, tmp_path: Path, step: int
) -> None:
    run_until(tmp_path, settings(shards), step)
    restored: set[int | None] = set()
    run(
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
            run(context(folder, attempt=attempt, world=world), config)
    else:
        run(context(folder, attempt=attempt, world=world), config)


def test_a_run_moves_between_one_two_and_four_ranks(shards: str, tmp_path: Path) -> None:
    # Drop path draws per rank, so that only without it the number of ranks cannot matter.
    config = settings(shards, dropPath=0.0)
    run(context(tmp_path / "one"), config)
    run_gang(_gang_run, 2, tmp_path / "moved", config, 1, 2)
    run_gang(_gang_run, 4, tmp_path / "moved", config, 2, None)
    expected, moved = weights(tmp_path / "one"), weights(tmp_path / "moved")
    for name in expected:
        torch.testing.assert_close(moved[name], expected[name], **CLOSE)


def test_progress_metrics_and_checkpoints_are_told(shards: str, tmp_path: Path) -> None:
    seen: list[StageProgress] = []
    told = context(tmp_path, report=seen.append)
    run(told, settings(shards))
    recorder = told.recorder
    assert isinstance(recorder, Recording)
    assert sorted(recorder.values) == [1, 2, 3, 4, 5, 6]
    assert recorder.checkpoints == [2, 4, 6]
    assert recorder.values[6]["samples"] == 96
    for name in ("loss_mean", "loss_sum", "positives_per_row", "logit_scale", "gradient_norm"):
        assert name in recorder.values[6]
    assert 0 <= recorder.values[6]["system/data_wait_fraction"] <= 1
    assert recorder.given["dataset"] == (shards, 1400)
    # Settings as they take effect: a warm-up longer than the stage is a tenth of it.
    assert recorder.given["stage"]["optimizer"]["warmupSteps"] == 2
    assert (
        as_used(settings(shards, steps=60, optimizer={"warmupSteps": 2000}), 60).wire()[
            "optimizer"
        ]["warmupSteps"]
        == 6
    )
    assert as_used(settings(shards, steps=None, epochs=2), 175).steps == 175
    assert set(recorder.files) == {"model.safetensors", "config.json"}
    phases = list(dict.fromkeys(progress.phase for progress in seen))
    assert phases == ["start", "train", "checkpoint", "export"]
    steps = [progress.step for progress in seen if progress.phase == "train"]
    assert steps == sorted(steps)
    assert seen[-1].checkpoint_step == STEPS
    last = seen[-1].seconds
    assert last is not None
    assert 0 < last.kept <= last.train
    assert recorder.values[6]["system/train_seconds"] <= last.train
    assert 0 < recorder.values[6]["system/goodput"] <= 1


def test_a_checkpoint_of_other_settings_is_refused_by_field(shards: str, tmp_path: Path) -> None:
    run_until(tmp_path, settings(shards), 3)
    changed = settings(shards, optimizer={"lr": 5e-4, "warmupSteps": 2})
    with pytest.raises(ConfigurationError, match=r"optimizer\.lr: 0\.001 -> 0\.0005"):
        run(context(tmp_path, attempt=2), changed)


def test_a_checkpoint_of_other_settings_is_continued_where_that_is_wanted(
    shards: str, tmp_path: Path
) -> None:
    constant = {"warmupSteps": 0, "schedule": "constant"}
    run_until(tmp_path / "a", settings(shards, optimizer={"lr": 1e-3, **constant}), 3)
    lowered = settings(
        shards,
        optimizer={"lr": 1e-4, **constant},
        checkpoints={"everySteps": 2, "ifSettingsChanged": "continue"},
    )
    run(context(tmp_path / "a", attempt=2), lowered)
    # The same rates as one schedule: a tenth from the fourth step of six on.
    falling = {"lr": 1e-3, "warmupSteps": 0, "schedule": "step", "decayAt": [0.5]}
    run(context(tmp_path / "b"), settings(shards, optimizer=falling))
    continued, expected = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.allclose(continued[name], expected[name], atol=1e-7) for name in expected)


def test_a_finished_stage_is_trained_longer(shards: str, tmp_path: Path) -> None:
    constant = {"optimizer": {"lr": 1e-3, "warmupSteps": 0, "schedule": "constant"}}
    policy = {"everySteps": 2, "ifSettingsChanged": "continue"}
    run(context(tmp_path / "a"), settings(shards, **constant))
    longer = settings(shards, steps=STEPS + 2, checkpoints=policy, **constant)
    run(context(tmp_path / "a", attempt=2), longer)
    run(context(tmp_path / "b"), settings(shards, steps=STEPS + 2, **constant))
    extended, expected = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(extended[name], expected[name]) for name in expected)
    shorter = settings(shards, steps=2, checkpoints=policy, **constant)
    with pytest.raises(ConfigurationError, match=rf"has {STEPS + 2} steps and the stage only 2"):
        run(context(tmp_path / "a", attempt=3), shorter)


def test_a_stage_of_other_settings_starts_over_where_that_is_wanted(
    shards: str, tmp_path: Path
) -> None:
    run_until(tmp_path / "a", settings(shards), 5)
    policy = {"everySteps": 2, "ifSettingsChanged": "restart"}
    changed = settings(shards, seed=7, checkpoints=policy)
    # Stopped once more: what it goes on from then is older than what was there before.
    run_until(tmp_path / "a", changed, 3, attempt=2)
    restored = []
    told = context(
        tmp_path / "a", attempt=3, report=lambda progress: restored.append(progress.restored_step)
    )
    run(told, changed)
    assert set(restored) == {None, 3}
    run(context(tmp_path / "b"), settings(shards, seed=7))
    again, expected = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(again[name], expected[name]) for name in expected)


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
        run(context(tmp_path), wild)


def test_a_stage_continues_from_the_model_of_the_one_before(
    shards: str, whole: Path, tmp_path: Path
) -> None:
    """With another window, so that bias tables change and nothing else does."""
    next_stage = settings(
        shards, steps=1, window=2, optimizer={"lr": 1e-12, "warmupSteps": 0}, excludeAugmented=True
    )
    told = context(tmp_path, start=whole)
    run(told, next_stage)
    continued, before = weights(tmp_path), weights(whole)
    assert torch.allclose(continued["logit_scale"], before["logit_scale"])
    tables = [name for name in before if name.endswith("bias_table")]
    assert tables
    assert any(continued[name].shape != before[name].shape for name in tables)
    others = [name for name in before if name not in tables]
    assert all(torch.allclose(continued[name], before[name], atol=1e-6) for name in others)


def test_the_card_has_the_sentences_that_texts_were_put_into(whole: Path) -> None:
    stored = read_final_model(open_storage(str(whole)))
    card = read_stored(stored.read, stored.uri).card
    assert (card.task, card.templates) == ("contrastive", DIGITS)


def test_a_missing_model_and_missing_data_are_told(shards: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no model"):
        run(context(tmp_path / "a", start=tmp_path / "nothing"), settings(shards))
    with pytest.raises(DataError, match="nowhere"):
        run(context(tmp_path / "b"), settings(str(tmp_path / "nowhere")))
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
    run(context(tmp_path / "plain"), plain)
    run(context(tmp_path / "thrifty"), thrifty)
    expected, got = weights(tmp_path / "plain"), weights(tmp_path / "thrifty")
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **CLOSE)


def test_every_step_is_told_however_rarely_metrics_are_logged(shards: str, tmp_path: Path) -> None:
    """Whoever watches for a stall counts steps: a rare log line must not look like one."""
    seen: list[int] = []
    told = context(tmp_path, report=lambda progress: seen.append(progress.step))
    run(told, settings(shards, logEverySteps=1000))
    assert set(seen) == set(range(STEPS + 1))
    assert sorted(told.recorder.values) == [1, STEPS]


class FlakyStorage:
    """A storage whose writes below ``data/`` fail while it is told to; else the one behind it."""

    def __init__(self, storage: Any, fail: Callable[[], bool]) -> None:
        self._storage, self._fail = storage, fail
        self.failed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def write(self, key: str, content: Any) -> None:
        if key.startswith("data/") and self._fail():
            self.failed += 1
            raise TransientError(f"{key}: 503 slow down")
        self._storage.write(key, content)


def test_a_failed_save_costs_nothing_but_itself(shards: str, whole: Path, tmp_path: Path) -> None:
    steps: list[int] = [0]
    told = context(tmp_path, report=lambda progress: steps.append(progress.step))
    flaky = FlakyStorage(told.output, lambda: steps[-1] in (2, 3))
    run(replace(told, output=flaky), settings(shards))
    assert flaky.failed
    assert told.recorder.checkpoints == [4, 6]
    expected, got = weights(whole), weights(tmp_path)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_saves_that_always_fail_end_the_stage_to_be_tried_again(
    shards: str, tmp_path: Path
) -> None:
    told = context(tmp_path)
    flaky = FlakyStorage(told.output, lambda: True)
    with pytest.raises(TransientError, match="2 checkpoints in a row failed"):
        run(
            replace(told, output=flaky),
            settings(shards, checkpoints={"everySteps": 1, "maxFailedSaves": 2}),
        )


def broken_shards(folder: Path, bad: int) -> str:
    """Sixty samples of which the first ``bad`` cannot be decoded."""
    write_samples(
        folder / "0.tar", [sample(i, **({"png": b"?"} if i < bad else {})) for i in range(60)]
    )
    index_data(str(folder))
    return str(folder)


def test_bad_samples_are_counted_over_resumes(tmp_path: Path) -> None:
    config = settings(
        broken_shards(tmp_path / "data", 3), loader={"workers": 0, "maxBadFraction": 0.5}
    )
    run(context(tmp_path / "whole"), config)
    run_until(tmp_path / "parts", config, 3)
    run(context(tmp_path / "parts", attempt=2), config)
    counts = [
        newest(open_storage(str(tmp_path / name))).metadata["state"] for name in ("whole", "parts")
    ]
    assert counts[0] == counts[1]
    assert counts[0]["seen_samples"] == 96
    assert counts[0]["bad_samples"] > 0


def test_too_many_bad_samples_stop_the_stage_and_name_the_shard(tmp_path: Path) -> None:
    config = settings(broken_shards(tmp_path / "data", 20), loader={"workers": 0})
    with pytest.raises(DataError, match=r"maxBadFraction=0\.01 .*worst is shard 0\.tar") as failure:
        run(context(tmp_path / "out"), config)
    assert failure.value.exit_code == 3


EVALUATION = {"zeroShot": [{"name": "held", "data": "builtin:digits/test", "prompts": "digits"}]}


def test_held_out_data_is_measured_on_the_way_and_changes_nothing(
    shards: str, whole: Path, tmp_path: Path
) -> None:
    told = context(tmp_path)
    run(told, settings(shards, evaluateEverySteps=4, evaluation=EVALUATION))
    measured = [s for s, values in told.recorder.values.items() if "validation/held/top1" in values]
    assert measured == [4, STEPS]
    results = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert 0 <= results["held/top1"] <= 1
    expected, got = weights(whole), weights(tmp_path)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_an_evaluation_that_a_stop_came_before_is_made_by_the_next_attempt(
    shards: str, tmp_path: Path
) -> None:
    config = settings(shards, evaluateEverySteps=3, evaluation=EVALUATION)
    run_until(tmp_path, config, 3)
    told = context(tmp_path, attempt=2)
    run(told, config)
    measured = [s for s, values in told.recorder.values.items() if "validation/held/top1" in values]
    assert measured == [3, STEPS]


def test_a_stop_amid_an_evaluation_saves_first_and_the_next_attempt_evaluates(
    shards: str, whole: Path, tmp_path: Path
) -> None:
    config = settings(shards, evaluateEverySteps=3, evaluation=EVALUATION)
    stop = Stop()

    def report(progress: StageProgress) -> None:
        if progress.phase == "evaluate" and progress.phase_fraction:
            stop.request()

    told = context(tmp_path, report=report, stop=stop)
    with pytest.raises(StoppedError, match="after step 3"):
        run(told, config)
    assert told.recorder.checkpoints == [2, 3]
    told = context(tmp_path, attempt=2)
    run(told, config)
    measured = [s for s, values in told.recorder.values.items() if "validation/held/top1" in values]
    assert measured == [3, STEPS]
    expected, got = weights(whole), weights(tmp_path)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


OVERFITTING = {
    "steps": 8,
    "optimizer": {"lr": 0.01, "warmupSteps": 0, "schedule": "constant"},
    "evaluateEverySteps": 1,
    "evaluation": EVALUATION,
}


def held_out_curve(told: StageContext) -> dict[int, float]:
    values = told.recorder.values.items()
    key = "validation/held/top1"
    return {step: metrics[key] for step, metrics in values if key in metrics}


@pytest.fixture(scope="module")
def every_step(shards: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run that keeps the checkpoint of every step, and its curve of held-out accuracy."""
    folder = tmp_path_factory.mktemp("every-step")
    told = context(folder)
    run(told, settings(shards, checkpoints={"everySteps": 1, "keep": 99}, **OVERFITTING))
    return folder, held_out_curve(told)


def test_the_best_evaluation_decides_which_model_is_kept(
    shards: str, every_step: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, curve = every_step
    best = max(curve, key=lambda step: (curve[step], -step))
    assert 1 < best < len(curve), "the recipe must overfit for this test to say anything"
    config = settings(
        shards, keepBest=True, checkpoints={"everySteps": 3, "keep": 1}, **OVERFITTING
    )
    # Stopped between the best step and the end, so that the best is known from the checkpoint only.
    run_until(tmp_path, config, len(curve) - 1)
    told = context(tmp_path, attempt=2)
    run(told, config)
    checkpoint = newest(open_storage(str(folder)), step=best)
    assert checkpoint is not None
    kept = weights(tmp_path)
    assert all(torch.equal(read_whole(checkpoint, f"model/{name}"), kept[name]) for name in kept)
    results = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert results["held/top1"] == curve[best]
    assert results["steps"] == best


def test_a_stage_ends_early_when_evaluations_stop_improving(
    shards: str, every_step: tuple[Path, Any], tmp_path: Path
) -> None:
    _, curve = every_step
    best, waited, ended = -1.0, 0, len(curve)
    for step, value in curve.items():
        best, waited = (value, 0) if value > best else (best, waited + 1)
        if waited == 2 and step < len(curve):
            ended = step
            break
    assert ended < len(curve), "the recipe must overfit for this test to say anything"
    seen: list[StageProgress] = []
    config = settings(shards, earlyStop=2, **OVERFITTING)
    run(context(tmp_path, report=seen.append), config)
    results = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert results["steps"] == ended
    assert seen[-1].step == seen[-1].total == ended
    # Again from its last checkpoint, as after a crash during the export: it does not train on.
    run(context(tmp_path, attempt=2), config)
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == results


@pytest.mark.parametrize("field", [{"keepBest": True}, {"earlyStop": 2}])
def test_nothing_to_measure_is_refused(shards: str, tmp_path: Path, field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="needs evaluateEverySteps"):
        settings(shards, **field)
    with pytest.raises(ConfigurationError, match="need something to measure"):
        run(context(tmp_path), settings(shards, evaluateEverySteps=2, **field))


def test_windows_are_inherited_from_the_model_of_the_stage_before(
    shards: str, tmp_path: Path
) -> None:
    run(context(tmp_path / "a"), settings(shards, steps=1, window=2))
    run(context(tmp_path / "b", start=tmp_path / "a"), settings(shards, steps=1))
    before, after = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert {n: v.shape for n, v in before.items()} == {n: v.shape for n, v in after.items()}


def test_epochs_are_as_many_steps_as_cover_them(shards: str, tmp_path: Path) -> None:
    seen: list[StageProgress] = []
    config = settings(shards, steps=None, epochs=0.05)  # of 1,400 samples: 70, in batches of 16
    run(context(tmp_path, report=seen.append), config)
    assert seen[-1].total == seen[-1].step == 5


def test_the_card_says_what_later_users_need(whole: Path) -> None:
    stored = InputModel(str(whole), S3Settings()).open()
    assert stored.card.task == "contrastive"
    assert stored.card.templates == DIGITS
    assert stored.card.trained["steps"] == STEPS
    assert stored.card.trained["job"] == "test"

"""Mode fewShot: episodes on any ranks, with mean and interval, stopped in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence.config.progress import StageProgress
from florence.errors import DataError, StoppedError
from florence.stages.context import Stop
from florence.tasks.finetune.settings import Finetune
from tests.florence.running import Recording
from tests.florence.tasks.finetune.running import (
    context,
    metrics,
    run,
    run_on_rank,
    settings,
)
from tests.gang import run_gang

EPISODES = {"ways": 3, "shots": [1, 3], "queries": 3, "episodes": 4, "epochs": 4}


def episodes(colours: str, *, scratch: bool = False, **changes: Any) -> Finetune:
    return settings("fewShot", colours, fewShot={**EPISODES, **changes}, compareWithScratch=scratch)


@pytest.mark.parametrize("frozen", [False, True])
def test_mean_and_interval_are_those_of_the_episodes(
    colours: str, two_towers: Path, tmp_path: Path, frozen: bool
) -> None:
    told = context(tmp_path, start=two_towers)
    run(told, episodes(colours, scratch=True, frozenTower=frozen, headLr=0.1))
    found = metrics(tmp_path)
    names = [f"few-shot/3-way-{k}-shot{part}" for k in (1, 3) for part in ("", "/interval")]
    assert set(found) == {*names, *(f"{name}/scratch" for name in names)}
    assert isinstance(told.recorder, Recording)
    rows = told.recorder.tables["episodes"]
    assert len(rows) == 2 * 2 * 4
    own = [r["accuracy"] for r in rows if r["shots"] == 3 and not r["scratch"]]
    assert found["few-shot/3-way-3-shot"] == pytest.approx(np.mean(own))
    interval = 1.96 * np.std(own) / np.sqrt(len(own))
    assert found["few-shot/3-way-3-shot/interval"] == pytest.approx(interval)
    assert found["few-shot/3-way-3-shot"] > 0.5
    assert not (tmp_path / "model").exists()


def test_ranks_do_not_matter(colours: str, two_towers: Path, tmp_path: Path) -> None:
    config = episodes(colours, episodes=5)
    run(context(tmp_path / "one", start=two_towers), config)
    run_gang(run_on_rank, 2, tmp_path / "two", config, two_towers)
    assert metrics(tmp_path / "two") == metrics(tmp_path / "one")


def test_progress_is_told_by_the_episode_and_a_stop_is_obeyed(
    colours: str, two_towers: Path, tmp_path: Path
) -> None:
    seen: list[StageProgress] = []
    stop = Stop()

    def report(progress: StageProgress) -> None:
        seen.append(progress)
        if progress.phase == "episodes" and progress.step == 3:
            stop.request()

    with pytest.raises(StoppedError, match="it starts over next time"):
        run(context(tmp_path, start=two_towers, report=report, stop=stop), episodes(colours))
    assert [p.step for p in seen if p.phase == "episodes"] == [1, 2, 3]
    assert seen[-1].total == 8
    assert not (tmp_path / "metrics.json").exists()


def test_too_few_images_are_told_before_the_work(
    colours: str, two_towers: Path, tmp_path: Path
) -> None:
    seen: list[str] = []
    told = context(tmp_path, start=two_towers, report=lambda p: seen.append(p.phase))
    with pytest.raises(DataError, match="50 shots"):
        run(told, episodes(colours, shots=[1, 50]))
    assert "episodes" not in seen


def test_it_runs_from_scratch_alone(colours: str, tmp_path: Path) -> None:
    run(context(tmp_path), episodes(colours, scratch=True, shots=[1], episodes=1, epochs=1))
    assert set(metrics(tmp_path)) == {"few-shot/3-way-1-shot", "few-shot/3-way-1-shot/interval"}

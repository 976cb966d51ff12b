from __future__ import annotations

from pathlib import Path

import pytest

from florence.tasks.pretrain.settings import Pretrain
from florence_jobs.recipes.florence import florence_h
from florence_jobs.recipes.registry import RECIPES, write_samples
from florence_operator.api import load_job

SAMPLES = Path(__file__).parents[2] / "jobs" / "samples"


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_sample_is_the_recipe_written_out(name: str) -> None:
    assert load_job(SAMPLES / f"{name}.yaml").spec == RECIPES[name].job().spec
    assert (SAMPLES / f"{name}.yaml").read_text() == RECIPES[name].sample()


def test_the_papers_schedule() -> None:
    stages = [s.config for s in florence_h().spec.stages if isinstance(s.config, Pretrain)]
    assert [s.steps for s in stages] == [1_000_000, 180_000, 80_000]
    assert {s.batch_size for s in stages} == {24_576}
    assert [s.resolution for s in stages] == [224, 224, 384]
    assert [s.exclude_augmented for s in stages] == [False, True, True]
    assert all(
        s.resources.processes == 512 for s in florence_h().spec.stages if s.kind.name == "pretrain"
    )


def test_a_stale_sample_is_found(tmp_path: Path) -> None:
    assert write_samples(tmp_path, check=True) == 1
    assert write_samples(tmp_path, check=False) == 0
    assert write_samples(tmp_path, check=True) == 0
    (tmp_path / "digits.yaml").write_text("# changed\n")
    assert write_samples(tmp_path, check=True) == 1

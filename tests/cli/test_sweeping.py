from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from florence.errors import ConfigurationError
from florence_operator.api import FlorenceJob, load_job
from florence_operator.api.stage import SWEEP_LABEL
from florence_operator.api.status import JobStatus, StageStatus
from florencectl.sweeping import Variant, spread_over_seeds, values_of, variants

SAMPLE = Path(__file__).parents[2] / "jobs" / "samples" / "digits.yaml"


@pytest.fixture(scope="module")
def job() -> FlorenceJob:
    return load_job(SAMPLE)


def test_a_job_is_made_of_every_combination(job: FlorenceJob) -> None:
    found = variants(job, ["mixed.optimizer.lr=1e-4,3e-4", "seed=0..2", "clean.steps=7"])
    seen = [
        (
            each.job.metadata.name,
            each.job.spec.stage("mixed").config.optimizer.lr,
            each.job.spec.stage("mixed").config.seed,
            each.job.spec.stage("clean").config.seed,
            each.job.spec.stage("probe").config.seed,
        )
        for each in found
    ]
    rates = [1e-4] * 3 + [3e-4] * 3
    seeds = [0, 1, 2] * 2
    assert seen == [
        (f"digits-{n}", rate, seed, seed, seed)
        for n, (rate, seed) in enumerate(zip(rates, seeds, strict=True))
    ]
    assert all(each.job.spec.stage("clean").config.steps == 7 for each in found)
    assert all(each.job.metadata.labels == {SWEEP_LABEL: "digits"} for each in found)
    assert found[4].values == {"mixed.optimizer.lr": "3e-4", "seed": "1"}
    assert found[0].job.spec.stage("zero-shot") == job.spec.stage("zero-shot")


def test_values_of_models_vary_too(job: FlorenceJob) -> None:
    found = variants(job, ["model.preset=coswin-nano,coswin-t"])
    assert [each.job.spec.model.preset for each in found] == ["coswin-nano", "coswin-t"]


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["mixed.steps=5"], "nothing varies"),
        (["colour=red,blue"], "no field of the stages mixed, clean, probe, zero-shot"),
        (["steps=1,2", "steps=3,4"], "given twice"),
        (["seed=3..1"], "1..3"),
        (["seed=1,2,1"], "'1' comes twice"),
        (["seed"], "field=VALUE"),
        (["seed=0..99", "mixed.steps=1..99"], "9900 combinations"),
        (["seed=0..99999999999"], "at most 1000 jobs"),
        (["mixed.steps=none,1"], r"pretrain\.steps: must be a whole number"),
    ],
)
def test_what_makes_no_sweep_is_refused(
    job: FlorenceJob, assignments: list[str], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        variants(job, assignments)


@given(st.integers(-50, 50), st.integers(0, 50))
def test_a_range_has_both_ends(first: int, more: int) -> None:
    assert values_of(f"{first}..{first + more}") == [str(first + n) for n in range(more + 1)]


def test_a_list_is_one_value() -> None:
    assert values_of("[0.5, 0.9]") == ["[0.5, 0.9]"]
    assert values_of("1e-4, 3e-4") == ["1e-4", "3e-4"]


def measured(variant: Variant, value: float | None) -> FlorenceJob:
    metrics = {"steps": 5.0} if value is None else {"digits/top1": value, "steps": 5.0}
    stage = StageStatus(name="zero-shot", metrics=metrics)
    return variant.job.model_copy(update={"status": JobStatus(stages=(stage,))})


def test_seeds_give_a_mean_and_a_spread(job: FlorenceJob) -> None:
    found = variants(job, ["seed=0..3", "mixed.steps=7"])
    values = (0.2, 0.4, 0.6, None)
    jobs = [measured(each, value) for each, value in zip(found, values, strict=True)]
    said = "zero-shot/digits/top1 over 3 seeds: 40.00 % ± 20.00 %"
    assert spread_over_seeds(found, jobs, None) == said
    assert spread_over_seeds(found, jobs[2:], None) is None
    rates = variants(job, ["mixed.optimizer.lr=1e-4,3e-4", "seed=0,1"])
    assert spread_over_seeds(rates, [measured(each, 0.5) for each in rates], None) is None


@pytest.mark.slow
def test_a_sweep_runs_here_one_job_after_another_and_goes_on(tmp_path: Path) -> None:
    tiny = {
        **{"data": "builtin:digits/train", "batchSize": 8, "steps": 2, "resolution": 16},
        **{"loader": {"workers": 0}, "text": {"templates": "digits"}, "engine": "torch"},
        "evaluation": {
            "zeroShot": [{"name": "held", "data": "builtin:digits/test", "prompts": "digits"}]
        },
    }
    document = {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": "tiny"},
        "spec": {
            "model": {"preset": "coswin-nano"},
            "stages": [{"name": "a", "pretrain": tiny}],
        },
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(document))

    def sweep(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "florencectl.main", "sweep", "-f", str(path), "--local"]
        return subprocess.run(
            [*command, "--processes", "1", "--set", "seed=0..1", *options],
            env={**os.environ, "FLORENCE_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=550,
            check=False,
        )

    first = sweep("-o", "json")
    assert first.returncode == 0, first.stderr
    jobs = json.loads(first.stdout)
    found = {j["metadata"]["name"]: j["status"]["stages"][0]["metrics"]["held/top1"] for j in jobs}
    assert list(found) == ["tiny-0", "tiny-1"]
    again = sweep()
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("already finished") == 2
    rows = [line.split() for line in again.stdout.splitlines()]
    assert rows[0] == ["NAME", "SEED", "STATE", "A/HELD/TOP1"]
    assert rows[1][0] == max(found, key=lambda name: found[name])
    assert "a/held/top1 over 2 seeds: " in again.stderr
    assert sweep("--metric", "a/none").returncode == 2

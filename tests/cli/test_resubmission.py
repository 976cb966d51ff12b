from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from florence.config import ChangedSettings
from florence.errors import ConfigurationError
from florence_operator.api import FlorenceJob, JobStatus, StageStatus, State, to_yaml
from florence_operator.api.status import Attempt
from florencectl.local_run import how_it_goes_on
from florencectl.resubmission import resubmitted

ATTEMPT = Attempt(
    number=1, start_time="2026-01-01T00:00:00Z", completion_time="2026-01-01T01:00:00Z"
)


def job(*stages: dict[str, Any], **spec: Any) -> FlorenceJob:
    return FlorenceJob.model_validate(
        {
            "apiVersion": "florence.dev/v1alpha1",
            "kind": "FlorenceJob",
            "metadata": {"name": "j"},
            "spec": {"model": {"preset": "coswin-nano"}, "stages": list(stages), **spec},
        }
    )


def training(name: str, *after: str, **settings: Any) -> dict[str, Any]:
    fields = {"data": "shards", "batchSize": 8, "steps": 10, **settings}
    return {"name": name, "dependsOn": list(after), "pretrain": fields}


def evaluation(name: str, *after: str, images: str = "images") -> dict[str, Any]:
    task = {"name": "held", "data": images, "prompts": "digits"}
    return {"name": name, "dependsOn": list(after), "evaluate": {"zeroShot": [task]}}


def ran(known: FlorenceJob, **states: State) -> FlorenceJob:
    stages = tuple(
        StageStatus(name=name, state=state, attempts=() if state is State.PENDING else (ATTEMPT,))
        for name, state in states.items()
    )
    return known.model_copy(update={"status": JobStatus(phase=State.FAILED, stages=stages)})


def states(found: FlorenceJob) -> dict[str, State]:
    assert found.status is not None
    return {stage.name: stage.state for stage in found.status.stages}


DONE, FAILED, PENDING = State.SUCCEEDED, State.FAILED, State.PENDING


def test_a_wrong_evaluation_does_not_cost_the_training_before_it() -> None:
    known = ran(job(training("a"), evaluation("b", "a", images="wrong")), a=DONE, b=FAILED)
    found = resubmitted(known, job(training("a"), evaluation("b", "a")), extend=False)
    assert found.job.spec.stages[1].config.zero_shot[0].data == "images"
    assert states(found.job) == {"a": DONE, "b": FAILED}
    assert (found.extended, found.repeated) == ({}, ())


def test_a_stage_that_has_not_begun_may_be_changed_or_added() -> None:
    known = ran(job(training("a"), training("b", "a")), a=DONE, b=PENDING)
    wanted = job(training("a"), training("b", "a", steps=3), evaluation("c", "b"))
    assert resubmitted(known, wanted, extend=False).job.spec == wanted.spec


def test_what_decided_nothing_about_a_finished_stage_may_change() -> None:
    known = ran(job(training("a")), a=DONE)
    again = job(training("a", logEverySteps=1, loader={"workers": 3}))
    found = resubmitted(known, again, extend=False)
    assert found.job.spec == known.spec
    assert states(found.job) == {"a": DONE}


@pytest.mark.parametrize(
    ("state", "wanted", "field"),
    [
        (DONE, job(training("a", seed=1)), r"spec.stages\[0\].pretrain"),
        (DONE, job(training("a", steps=20)), r"spec.stages\[0\].pretrain"),
        (State.SUSPENDED, job(training("a", seed=1)), r"spec.stages\[0\].pretrain"),
        (DONE, job(training("a"), model={"preset": "coswin-t"}), "spec.model"),
        (DONE, job(training("other")), "'a' has started"),
    ],
)
def test_what_would_undo_work_is_refused_by_field(
    state: State, wanted: FlorenceJob, field: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"other settings \(.*{field}.*delete"):
        resubmitted(ran(job(training("a")), a=state), wanted, extend=False)


def test_a_finished_stage_is_extended_and_what_started_from_it_runs_again() -> None:
    stages = (training("a"), training("b", "a"), evaluation("c", "b"), training("d"))
    known = ran(job(*stages), a=DONE, b=DONE, c=FAILED, d=DONE)
    wanted = job(training("a", steps=30), *stages[1:])
    found = resubmitted(known, wanted, extend=True)
    assert found.extended == {"a": 10}
    assert found.repeated == ("b",)
    assert states(found.job) == {"a": PENDING, "b": PENDING, "c": FAILED, "d": DONE}
    longer = found.job.spec.stages[0].config
    assert longer.steps == 30
    assert longer.checkpoints.if_settings_changed is ChangedSettings.CONTINUE
    # Once it is done, the same file is the same job.
    done = ran(found.job, a=DONE, b=DONE, c=DONE, d=DONE)
    assert resubmitted(done, wanted, extend=False).job == done


@pytest.mark.parametrize(
    "wanted", [training("a"), training("a", steps=9), training("a", steps=20, seed=1)]
)
def test_extending_is_more_steps_and_nothing_else(wanted: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="--extend: no finished stage has more steps"):
        resubmitted(ran(job(training("a")), a=DONE), job(wanted), extend=True)


def submit(folder: Path, document: FlorenceJob, *options: str) -> subprocess.CompletedProcess[str]:
    path = folder / "job.yaml"
    path.write_text(to_yaml(document.manifest()))
    command = [sys.executable, "-m", "florencectl.main", "submit", "-f", str(path), "--local"]
    return subprocess.run(
        [*command, "--processes", "1", *options],
        env={**os.environ, "FLORENCE_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )


@pytest.mark.slow
def test_a_corrected_job_goes_on_and_a_finished_one_is_trained_longer(tmp_path: Path) -> None:
    def wanted(steps: int, prompts: Path) -> FlorenceJob:
        tiny = {"resolution": 16, "loader": {"workers": 0}, "text": {"templates": "digits"}}
        a = training("a", data="builtin:digits/train", steps=steps, engine="torch", **tiny)
        b = evaluation("b", "a", images="builtin:digits/test")
        b["evaluate"]["zeroShot"][0]["prompts"] = str(prompts)
        return job(a, b)

    wrong, right = tmp_path / "wrong.json", tmp_path / "right.json"
    wrong.write_text(json.dumps({"classes": ["zero", "one"], "templates": ["{}"]}))
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    right.write_text(json.dumps({"classes": digits, "templates": ["{}"]}))

    failed = submit(tmp_path, wanted(3, wrong))
    assert failed.returncode not in (0, 1), failed.stderr
    corrected = submit(tmp_path, wanted(3, right))
    assert corrected.returncode == 0, corrected.stderr
    assert "settings changed; kept: a" in corrected.stderr
    assert "a: starting" not in corrected.stderr
    refused = submit(tmp_path, wanted(5, right))
    assert refused.returncode == 2
    assert "pretrain: cannot be changed" in refused.stderr
    longer = submit(tmp_path, wanted(5, right), "--extend", "-o", "json")
    assert longer.returncode == 0, longer.stderr
    assert "a: goes on from step 3 to 5; its cosine schedule is that of 5 steps" in longer.stderr
    assert "b: runs again, since it starts from a stage that is trained longer" in longer.stderr
    stages = {stage["name"]: stage for stage in json.loads(longer.stdout)["status"]["stages"]}
    assert stages["a"]["attempts"][-1]["restoredStep"] == 3
    assert stages["a"]["metrics"]["steps"] == 5
    assert len(stages["b"]["attempts"]) == 3


def test_what_the_schedule_does_is_told() -> None:
    optimizer = {"lr": 1e-3, "schedule": "linear", "minLrFraction": 0, "warmupSteps": 0}
    config = job(training("a", steps=21, optimizer=optimizer)).spec.stages[0].config
    assert how_it_goes_on(config, 11) == (
        "goes on from step 11 to 21; its linear schedule is that of 21 steps: the learning rate "
        "was 0 at its end, is 0.00045 now and 0 at the last step"
    )

"""``florencectl submit``: in this process what needs no training, in real processes what does."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from florence.checkpoint import read_final_model
from florence.kinds import KINDS
from florence.storage import open_storage
from florencectl import checking_data
from florencectl.flags import flags_of
from florencectl.main import app
from tests.florence.data.making import sample, write_samples, write_shards

STEPS = 30


def job(**changes: Any) -> dict[str, Any]:
    pretrain = {
        "data": "builtin:digits/train",
        "batchSize": 16,
        "steps": STEPS,
        "resolution": 16,
        "loader": {"workers": 1},
        "text": {"templates": "digits"},
        "checkpoints": {"everySteps": 10},
        "logEverySteps": 1,
        "engine": "torch",
        **changes,
    }
    tower = {"preset": "coswin-nano", "image": {"width": 16}, "text": {"width": 32, "hidden": 32}}
    stages = [
        {"name": "mixed", "resources": {"workers": 2}, "pretrain": pretrain},
        {
            "name": "check",
            "dependsOn": ["mixed"],
            "evaluate": {
                "zeroShot": [{"name": "digits", "data": "builtin:digits/test", "prompts": "digits"}]
            },
        },
    ]
    return {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": "small"},
        "spec": {"model": tower, "stages": stages},
    }


def write(path: Path, document: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(document))
    return str(path)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_flags_and_assignments_become_the_same_job_as_a_file() -> None:
    result = invoke(
        *("submit", "pretrain", "--data", "s3://b/p", "--preset", "coswin-b", "--batch-size", "64"),
        *("--steps", "10", "--set", "optimizer.lr=3e-4", "--set", "model.image.window=8"),
        *("--exclude-augmented", "--artifacts", "s3://b/runs", "--name", "mine", "--dry-run"),
    )
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout) == {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": "mine"},
        "spec": {
            "model": {"preset": "coswin-b", "image": {"window": 8}},
            "artifacts": {"uri": "s3://b/runs"},
            "stages": [
                {
                    "name": "pretrain",
                    "pretrain": {
                        "data": "s3://b/p",
                        "batchSize": 64,
                        "steps": 10,
                        "excludeAugmented": True,
                        "optimizer": {"lr": 0.0003},
                    },
                }
            ],
        },
    }


def test_a_stage_of_epochs_that_starts_from_a_model() -> None:
    result = invoke(
        *("submit", "pretrain", "--data", "s3://b/p", "--batch-size", "64", "--epochs", "1.5"),
        *("--from", "s3://b/runs/other/model", "--dry-run", "-o", "json"),
    )
    assert result.exit_code == 0, result.stderr
    (stage,) = json.loads(result.stdout)["spec"]["stages"]
    assert stage == {
        "name": "pretrain",
        "initialModel": "s3://b/runs/other/model",
        "pretrain": {"data": "s3://b/p", "batchSize": 64, "epochs": 1.5},
    }


def test_a_stage_that_trains_nothing_has_its_command_too() -> None:
    zero_shot = "zeroShot=[{name: digits, data: s3://b/test, prompts: digits}]"
    result = invoke(
        *("submit", "evaluate", "--set", zero_shot, "--from", "s3://b/model", "--dry-run"),
        *("-o", "json"),
    )
    assert result.exit_code == 0, result.stderr
    (stage,) = json.loads(result.stdout)["spec"]["stages"]
    assert stage["evaluate"]["zeroShot"][0]["name"] == "digits"
    assert stage["initialModel"] == "s3://b/model"


def test_a_model_to_measure_has_two_names_and_is_asked_for() -> None:
    zero_shot = "zeroShot=[{name: d, data: builtin:digits/test, prompts: digits}]"
    command = ("submit", "evaluate", "--set", zero_shot, "--dry-run", "-o", "json")
    named = [invoke(*command, flag, "s3://b/model") for flag in ("--from", "--model")]
    assert named[0].stdout == named[1].stdout
    assert json.loads(named[0].stdout)["spec"]["stages"][0]["initialModel"] == "s3://b/model"
    refused = invoke(*command)
    assert refused.exit_code == 2
    assert refused.stderr.strip() == (
        "florencectl: --from: a stage of this kind needs a model: name its folder or URI"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_command_with_its_plain_fields(kind: str) -> None:
    text = invoke("submit", kind, "--help").stdout
    for flag in flags_of(KINDS[kind].settings):
        assert f"--{flag.name.replace('_', '-')}" in text
    for flag in ("--from", "--set", "--name", "--preset"):
        assert flag in text


def unindexed(folder: Path) -> str:
    """Shards without an index."""
    write_shards(folder, 4, 2)
    for index in folder.glob("*.idx"):
        index.unlink()
    return str(folder)


def warnings(job_path: str, monkeypatch: pytest.MonkeyPatch, *, seconds: float = 60) -> str:
    """What submitting to nowhere says on stderr before it has to give up."""
    monkeypatch.setattr(checking_data, "LONGEST_LOOK", seconds)
    monkeypatch.setattr("florencectl.local_run.run_to_the_end", lambda _, job, __: (1, job))
    monkeypatch.setenv("FLORENCE_HOME", str(Path(job_path).parent / "home"))
    result = invoke("submit", "-f", job_path, "--local")
    assert result.exit_code == 1, result.stderr
    stderr: str = result.stderr
    return stderr


def test_training_data_without_an_index_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = unindexed(tmp_path / "shards")
    path = write(tmp_path / "job.yaml", job(data=shards, batchSize=4))
    line = (
        f"spec.stages[0].pretrain.data: 2 of 2 shards of {shards} have no current index, and are "
        f"read whole before training starts: run 'florencectl data index {shards}' once\n"
    )
    assert warnings(path, monkeypatch) == line
    assert warnings(path, monkeypatch, seconds=0) in ("", line)
    assert invoke("data", "index", shards, "--workers", "1").exit_code == 0
    assert warnings(path, monkeypatch) == ""


def test_a_batch_larger_than_the_data_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "shards", 4, 2)
    assert invoke("data", "index", str(tmp_path / "shards"), "--workers", "1").exit_code == 0
    for batch_size, said in ((4, ""), (5, "every step sees some of them more than once\n")):
        document = job(data=str(tmp_path / "shards"), batchSize=batch_size)
        assert warnings(write(tmp_path / "job.yaml", document), monkeypatch).endswith(said)


def test_the_look_at_the_data_imports_no_torch(tmp_path: Path) -> None:
    path = write(tmp_path / "job.yaml", job(data=unindexed(tmp_path / "shards")))
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from florencectl.checking_data import warn_of_data\n"
        "from florencectl.job_file import read_job\n"
        f"warn_of_data(read_job(Path({path!r})), seconds=60)\n"
        "print({'torch', 'mlflow', 'sklearn', 'boto3'} & set(sys.modules))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], text=True, capture_output=True, timeout=120
    )
    assert result.stdout == "set()\n", result.stderr
    assert "have no current index" in result.stderr


def test_a_dry_run_of_a_file_prints_a_file_that_reads_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "job.yaml", job())
    once = invoke("submit", "-f", path, "--dry-run").stdout
    again = write(tmp_path / "again.yaml", yaml.safe_load(once))
    assert invoke("submit", "-f", again, "--dry-run").stdout == once


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["submit", "pretrain", "--local", "--steps", "1", "--batch-size", "1"],
            "stages[0].pretrain.data: is required: give --data",
        ),
        (
            ["submit", "pretrain", "--local", "--data", "d", "--batch-size", "1"],
            "stages[0].pretrain: give exactly one of steps and epochs: --steps or --epochs",
        ),
        (
            ["submit", "evaluate", "--local"],
            "stages[0].evaluate: give at least one of zeroShot, retrieval, classification",
        ),
        (
            ["submit", "-f", "job.yaml", "pretrain", "--data", "d"],
            "-f job.yaml and pretrain: a job is of a file or of flags: leave out one of them; "
            "--set STAGE.FIELD=VALUE changes a field of the file's",
        ),
        (
            ["submit", "--local", "pretrain", "--data", "d"],
            "--local stands before pretrain: write it behind",
        ),
        (
            ["submit", "--set", "steps=1", "pretrain", "--data", "d"],
            "--set stands before pretrain: write it behind",
        ),
        (
            ["submit", "pretrain", "--data", "d", "--steps", "0", "--batch-size", "1"],
            "stages[0].pretrain.steps: must be at least 1, not 0",
        ),
        (
            [
                "submit",
                "pretrain",
                "--data",
                "d",
                "--steps",
                "1",
                "--batch-size",
                "1",
                "--preset",
                "x",
            ],
            "unknown preset 'x': use one of coswin-nano",
        ),
        (
            [
                "submit",
                "pretrain",
                "--data=d",
                "--steps=1",
                "--batch-size=1",
                "--set",
                "optimizer.l=1",
            ],
            "stages[0].pretrain.optimizer.l: is not a known field",
        ),
        (["submit", "-f", "/nowhere/job.yaml", "--local"], "/nowhere/job.yaml: no such file"),
        (["submit", "--local"], "give a file with -f"),
        (["submit", "pretrain", "--data=d", "--steps=1", "--batch-size=1"], "add --local"),
    ],
)
def test_wrong_use_is_one_line_with_the_field_and_exit_code_2(
    arguments: list[str], words: str
) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_kind_without_flags_says_which_are_needed() -> None:
    result = invoke("submit", "pretrain", "--local")
    assert result.exit_code == 2
    stage = "florencectl: spec.stages[0].pretrain"
    assert result.stderr.splitlines() == [
        f"{stage}.data: is required: give --data",
        f"{stage}.batchSize: is required: give --batch-size",
    ]


def test_every_wrong_field_of_a_file_is_told_on_a_line_of_its_own(tmp_path: Path) -> None:
    document = job(steps=0, optimizer={"lr": -1})
    del document["spec"]["stages"][0]["pretrain"]["batchSize"]
    document["spec"]["stages"][0]["pretrain"]["batchSze"] = 4
    path = write(tmp_path / "job.yaml", document)
    for command_line in (["submit", "-f", path, "--local"], ["plan", "-f", path]):
        result = invoke(*command_line)
        assert result.exit_code == 2
        stage = f"florencectl: {path}: spec.stages[0].pretrain"
        assert sorted(result.stderr.splitlines()) == [
            f"{stage}.batchSize: is required",
            f"{stage}.batchSze: is not a known field; did you mean 'batchSize'?",
            f"{stage}.optimizer.lr: must be greater than 0, not -1",
            f"{stage}.steps: must be at least 1, not 0",
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML at line 2"),
        ("- 1\n- 2", "holds a list and no FlorenceJob, a mapping with apiVersion, kind, metadata"),
        ("job", "holds a str and no FlorenceJob"),
        ("", "is empty: write a FlorenceJob"),
        ("a: 1\n---\nb: 2", "holds 2 YAML documents: give each FlorenceJob its own file"),
        ("\x00", "is not valid YAML"),
        ("kind: a\nspec: {}\nspec: {}", "has the key 'spec' twice, again at line 3"),
        ("[" * 100_000, "is nested more than 64 deep"),
        ("a: 1\n" * 9_000_000, "is more than 1,048,576 bytes long"),
    ],
)
def test_a_file_that_holds_no_job_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    for command_line in (["submit", "--local"], ["plan"]):
        result = invoke(*command_line, "-f", str(path))
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"florencectl: {path}: {message}")


@pytest.mark.parametrize("given", ["file", "--set"])
def test_a_boolean_is_no_number_of_steps(tmp_path: Path, given: str) -> None:
    path = write(tmp_path / "job.yaml", job(steps=True if given == "file" else 3))
    change = [] if given == "file" else ["--set", "mixed.steps=yes"]
    result = invoke("submit", "-f", path, "--local", *change)
    assert result.exit_code == 2
    assert "spec.stages[0].pretrain.steps: must be a whole number, not True" in result.stderr


def command(home: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "FLORENCE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "florencectl.main", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def weights(home: Path) -> bytes:
    stage = open_storage(str(home / "artifacts/default/small/mixed"))
    return read_final_model(stage).read("model.safetensors")


def progress(home: Path) -> int:
    record = home / "jobs" / "default" / "small" / "job.json"
    if not record.exists():
        return 0
    stages = json.loads(record.read_text())["status"].get("stages", [])
    return max((stage.get("progress", {}).get("step", 0) for stage in stages), default=0)


@pytest.mark.slow
def test_ctrl_c_stops_after_a_checkpoint_and_the_same_command_ends_with_the_same_bits(
    tmp_path: Path,
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    path = write(tmp_path / "job.yaml", job(steps=200))
    submit = ("submit", "-f", path, "--local", "-o", "json")
    code, out, err = finished(command(whole, *submit))
    assert code == 0, err
    metrics = json.loads(out)["status"]["stages"][1]["metrics"]
    assert 0 <= metrics["digits/top1"] <= 1

    process = command(stopped, *submit)
    deadline = time.monotonic() + 240
    while progress(stopped) < 10:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert (code, "the same command continues it" in err) == (130, True), err

    code, out, err = finished(command(stopped, *submit))
    assert code == 0, err
    attempts = json.loads(out)["status"]["stages"][0]["attempts"]
    assert [a["exitCode"] for a in attempts] == [143, 0]
    assert attempts[1]["restoredStep"] >= 10
    assert weights(whole) == weights(stopped)

    code, _, err = finished(command(stopped, *submit))
    assert (code, "already finished" in err) == (0, True)
    listing = finished(command(stopped, "get", "-o", "json"))[1]
    assert json.loads(listing)[0]["status"]["phase"] == "Succeeded"
    log = finished(command(stopped, "logs", "small", "--stage", "mixed", "--rank", "1"))[1]
    assert "[rank 1]" in log
    assert "[rank 0]" not in log

    other = write(tmp_path / "other.yaml", job(steps=201))
    code, _, err = finished(command(stopped, "submit", "-f", other, "--local"))
    assert (code, "run here with other settings" in err) == (2, True)

    assert finished(command(stopped, "delete", "small", "--artifacts"))[0] == 0
    assert not list((stopped / "artifacts").rglob("*.safetensors"))
    assert finished(command(stopped, "get", "small"))[0] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"data": "TEXTLESS"}, 3, "holds no sample that can be used"),
        ({"optimizer": {"lr": 1e30, "clipNorm": 0}, "nanBudget": 0}, 4, "step "),
    ],
)
def test_a_stage_that_fails_says_why_in_one_line(
    tmp_path: Path, changes: dict[str, Any], code: int, words: str
) -> None:
    shards = tmp_path / "textless"
    write_samples(shards / "0.tar", [sample(0, txt=None, json=None)])
    document = job(**{k: str(shards) if v == "TEXTLESS" else v for k, v in changes.items()})
    document["spec"]["artifacts"] = {"uri": str(tmp_path / "a")}
    document["spec"]["runPolicy"] = {"retries": {"infrastructure": 0, "application": 0}}
    path = write(tmp_path / "job.yaml", document)
    got, _, err = finished(command(tmp_path / "home", "submit", "-f", path, "--local"))
    failure = next(line for line in err.splitlines() if "failed after" in line)
    assert words in failure
    assert "Traceback" not in err
    assert got == code
    last = err.splitlines()[-1]
    assert last == (
        "small: failed; 'florencectl why small --local' says what to do, "
        "'florencectl logs small --local' prints the log"
    )
    for hint in re.findall(r"'florencectl (.+?)'", last):
        hinted, out, err = finished(command(tmp_path / "home", *shlex.split(hint)))
        assert (hinted, words in " ".join(out.split())) == (0, True), (hint, out, err)


SAMPLE = "jobs/samples/digits.yaml"


def sample_with(*assignments: str) -> Any:
    options = [word for each in assignments for word in ("--set", each)]
    return invoke("submit", "-f", SAMPLE, *options, "--dry-run", "-o", "json")


def test_set_changes_stages_model_and_name_of_a_file() -> None:
    result = sample_with(
        "mixed.steps=3", "clean.optimizer.lr=1e-4", "clean.epochs=0.5", "model.preset=coswin-t",
        "name=other",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    job = json.loads(result.stdout)
    assert job["metadata"]["name"] == "other"
    assert job["spec"]["model"]["preset"] == "coswin-t"
    stages = {stage["name"]: stage for stage in job["spec"]["stages"]}
    assert stages["mixed"]["pretrain"]["steps"] == 3
    assert stages["mixed"]["pretrain"]["batchSize"] == 128
    assert stages["clean"]["pretrain"]["optimizer"]["lr"] == 1e-4
    assert stages["clean"]["pretrain"]["epochs"] == 0.5
    assert "steps" not in stages["clean"]["pretrain"]


@pytest.mark.parametrize(
    ("assignment", "found"),
    [
        ("nothing.steps=3", "one of the stages mixed, clean"),
        ("mixed=3", "one of the stages mixed, clean"),
        ("mixed.steps", "field=value"),
        ("mixed.stepps=3", "pretrain.stepps"),
    ],
)
def test_set_names_what_cannot_be_changed(assignment: str, found: str) -> None:
    result = sample_with(assignment)
    assert result.exit_code == 2
    assert found in result.stderr

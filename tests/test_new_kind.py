"""A kind of stage is a folder and a line: CONTRIBUTING.md's own example, followed to the letter.

The packages are copied; only what the page says is added. Everything else runs as it stands.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
PACKAGES = ("florence", "operator/florence_operator", "jobs/florence_jobs", "cli/florencectl")
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SMALL = ("--preset", "coswin-nano", "--resolution", "32", "--set", "model.image.width=16")

pytestmark = pytest.mark.slow


def section(title: str) -> str:
    """A section of the page, without its title."""
    _, _, rest = PAGE.partition(f"## {title}\n")
    return rest.partition("\n## ")[0]


def blocks(text: str) -> list[tuple[str, str, str]]:
    """The language, file and content of each block of code."""
    return re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def apply(diff: str, path: Path) -> None:
    """Put each added line behind the line that the diff shows before it."""
    text = path.read_text()
    before = None
    for line in diff.splitlines():
        if not line.startswith("+"):
            before = line[1:]
            assert text.count(f"{before}\n") == 1, before
            continue
        text = text.replace(f"{before}\n", f"{before}\n{line[1:]}\n")
        before = line[1:]
    path.write_text(text)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages in which the page's steps were followed."""
    root = tmp_path_factory.mktemp("house")
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for language, file, content in blocks(section("Add a kind of stage")):
        target = root / file
        if language == "python":
            target.parent.mkdir(parents=True, exist_ok=True)
            assert not target.exists()
            target.write_text(content)
        elif language == "diff":
            apply(content, target)
    return root


def run(house: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A Python module's program in the copy."""
    paths = [str(house / package) for package in (".", "operator", "jobs", "cli")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "FLORENCE_HOME": str(house / "home"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *command],
        env=environment,
        cwd=house,
        text=True,
        capture_output=True,
        timeout=300,
    )


def ctl(house: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(house, "-m", "florencectl.main", *arguments)


@pytest.fixture(scope="module")
def trained(house: Path) -> dict[str, Any]:
    """The job after the command that the page ends with."""
    page = section("Add a kind of stage")
    (command,) = [content for language, _, content in blocks(page) if language == "sh"]
    words = command.replace("\\\n", " ").split()
    assert words[:3] == ["florencectl", "submit", "rotation"]
    result = ctl(house, *words[1:], "--set", "model.image.width=16", "-o", "json")
    assert result.returncode == 0, result.stderr
    job: dict[str, Any] = json.loads(result.stdout)
    return job


def picture(house: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(house / "picture.png")
    return "picture.png"


def test_the_added_code_passes_the_linter(house: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", house)
    for command in (["check"], ["format", "--check"]):
        files = ["florence/tasks/rotation"]
        result = run(house, "-m", "ruff", *command, *files)
        assert result.returncode == 0, result.stdout + result.stderr


def test_it_has_a_command_with_its_flags(house: Path) -> None:
    result = ctl(house, "submit", "rotation", "--help")
    assert result.returncode == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert "Learn from images alone by how many quarter turns they were rotated." in text
    assert "--turns" in text
    assert "rotations to tell apart, from upright on (default: 4)" in text


def test_it_is_trained(trained: dict[str, Any]) -> None:
    (stage,) = trained["status"]["stages"]
    assert (trained["status"]["phase"], stage["state"]) == ("Succeeded", "Succeeded")
    assert stage["metrics"]["steps"] == 2
    assert (stage["progress"]["step"], stage["progress"]["total"]) == (2, 2)


def test_it_is_resumed_to_the_same_bits(house: Path, trained: dict[str, Any]) -> None:
    """A process that is asked to stop at once stops after a step; the next one goes on there."""
    attempt = house / "home/jobs/default/rotation/rotation/a1/stage.json"
    plan = json.loads(attempt.read_text())
    again = {**plan, "output": str(house / "again"), "progress": None, "tracking": None}
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from florence.errors import StoppedError\n"
        "from florence.stages.context import Stop\n"
        "from florence_jobs.main import run\n"
        "from florence_jobs.plan_file import read_plan\n"
        "stop = Stop()\n"
        "if sys.argv[2] == 'stop':\n"
        "    stop.request()\n"
        "try:\n"
        "    run(read_plan(Path(sys.argv[1])), stop)\n"
        "except StoppedError as error:\n"
        "    print(error)\n"
    )
    (house / "again.json").write_text(json.dumps(again))
    stopped = run(house, "-c", script, "again.json", "stop")
    assert "stopped on request after step 1" in stopped.stdout, stopped.stderr
    (house / "again.json").write_text(json.dumps({**again, "attempt": 2}))
    result = run(house, "-m", "florence_jobs.main", "again.json")
    assert result.returncode == 0, result.stderr
    assert "Restored step 1 from" in result.stderr
    weights = "model/model.safetensors"
    whole = Path(plan["output"])
    ours = next((house / "again").rglob("model.safetensors")).read_bytes()
    assert ours == next(whole.rglob("model.safetensors")).read_bytes(), weights


def test_it_is_planned(house: Path) -> None:
    arguments = ("submit", "rotation", "--data", "s3://b/p", "--batch-size", "64", "--steps", "10")
    dry = ctl(house, *arguments, *SMALL, "--gpus", "2", "--turns", "3", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    (house / "job.yaml").write_text(dry.stdout)
    result = ctl(house, "plan", "-f", "job.yaml", "--gpu", "A100-40GB", "-o", "json")
    assert result.returncode == 0, result.stderr
    (stage,) = json.loads(result.stdout)["stages"]
    assert stage["fits"] is True
    assert stage["flopsPerSample"]["text"] == 0
    assert stage["flopsPerSample"]["head"] == 6 * 9 * 64
    table = ctl(house, "plan", "-f", "job.yaml", "--gpu", "A100-40GB")
    assert table.returncode == 0, table.stderr


def test_its_model_predicts(house: Path, trained: dict[str, Any]) -> None:
    model = trained["status"]["stages"][0]["model"]
    result = ctl(house, "predict", model, picture(house), "--softness", "2", "-o", "json")
    assert result.returncode == 0, result.stderr
    (answer,) = json.loads(result.stdout)
    assert set(answer["probabilities"]) == {"upright", "left", "upside down", "right"}
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    refused = ctl(house, "predict", model, picture(house), "--labels", "cat,dog")
    assert refused.returncode == 2
    assert "--labels is not for rotation models, which take --softness" in refused.stderr
    code = (
        "import florence, sys\n"
        "model = florence.load(sys.argv[1])\n"
        "print(model.card.task, model.predict(sys.argv[2])[0]['label'] in model.card.labels)\n"
    )
    loaded = run(house, "-c", code, model, picture(house))
    assert loaded.stdout == "rotation True\n", loaded.stderr


def test_its_model_is_served_with_a_signature_of_its_own(
    house: Path, trained: dict[str, Any]
) -> None:
    descriptions = list((house / "home").rglob("MLmodel"))
    assert len(descriptions) == 1
    signature = yaml.safe_load(descriptions[0].read_text())["signature"]
    assert [column["name"] for column in json.loads(signature["inputs"])] == ["image"]
    (parameter,) = json.loads(signature["params"])
    assert (parameter["name"], parameter["type"], parameter["default"]) == (
        "softness",
        "double",
        1.0,
    )


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("trns=3", "trns: is not a known field; did you mean 'turns'?"),
        ("turns=5", "turns: must be at most 4, not 5"),
    ],
)
def test_a_wrong_field_is_refused_by_its_path(house: Path, assignment: str, line: str) -> None:
    arguments = ("--data", "s3://b/p", "--batch-size", "64", "--steps", "10", "--dry-run")
    result = ctl(house, "submit", "rotation", *arguments, "--set", assignment)
    assert result.returncode == 2
    assert result.stderr == f"florencectl: spec.stages[0].rotation.{line}\n"


def test_who_may_start_from_its_model(house: Path) -> None:
    """It may follow pretraining; an evaluation of two towers may not follow it."""
    given = {"data": "s3://b/p", "batchSize": 64, "steps": 10}
    evaluate = {"zeroShot": [{"name": "d", "data": "s3://b/t", "prompts": "digits"}]}
    stages = [
        {"name": "a", "pretrain": given},
        {"name": "b", "dependsOn": ["a"], "rotation": given},
        {"name": "c", "dependsOn": ["b"], "evaluate": evaluate},
    ]
    job = {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": "j"},
        "spec": {"stages": stages},
    }
    (house / "graph.yaml").write_text(yaml.safe_dump(job))
    result = ctl(house, "submit", "-f", "graph.yaml", "--dry-run")
    assert result.returncode == 2
    assert result.stderr == (
        "florencectl: graph.yaml: spec.stages[2].dependsOn: 'c' (evaluate) cannot start from the "
        "rotation model of 'b': it takes contrastive models\n"
    )
    (house / "graph.yaml").write_text(yaml.safe_dump(job | {"spec": {"stages": stages[:2]}}))
    assert ctl(house, "submit", "-f", "graph.yaml", "--dry-run").returncode == 0


def test_a_stage_refuses_a_model_it_cannot_start_from(house: Path, trained: dict[str, Any]) -> None:
    """What admission cannot see: the model comes from outside the job."""
    model = trained["status"]["stages"][0]["model"]
    arguments = ("--data", "builtin:digits/train", "--batch-size", "8", "--steps", "1")
    result = ctl(
        house, "submit", "pretrain", *arguments, *SMALL, "--from", model, "--name", "no", "--local"
    )
    assert result.returncode == 2
    assert "a pretrain stage cannot start from a rotation model" in result.stderr


def test_the_crd_has_it(house: Path) -> None:
    result = run(house, "-m", "florence_operator.api.crd", "crd.yaml")
    assert result.returncode == 0, result.stderr
    crd = yaml.safe_load((house / "crd.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    stage = schema["properties"]["spec"]["properties"]["stages"]["items"]
    turns = stage["properties"]["rotation"]["properties"]["turns"]
    assert (turns["minimum"], turns["maximum"], turns["default"]) == (2, 4, 4)
    (length,) = stage["properties"]["rotation"]["x-kubernetes-validations"]
    assert length["rule"] == "has(self.steps) != has(self.epochs)"
    assert "has(self.rotation)" in stage["x-kubernetes-validations"][0]["rule"]
    frozen = [rule["message"] for rule in schema["x-kubernetes-validations"]]
    assert any(message.startswith("rotation of a stage that has started") for message in frozen)

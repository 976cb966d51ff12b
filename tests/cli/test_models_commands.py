"""``florencectl models`` on a real store: every command of docs/registry.md, in its order."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("mlflow", reason="MLflow is not installed")

from florencectl.main import app
from tests.cli.test_documented_commands import ROOT, shown_in
from tests.registered import stage
from tests.small_model import picture

pytestmark = pytest.mark.slow

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two versions of a model, the second from the first."""
    root = tmp_path_factory.mktemp("models")
    store = f"sqlite:///{root}/mlflow.db"
    stage(store, root, "one", top1=0.81).close("FINISHED")
    second = stage(store, root, "two", top1=0.82, resolution=64, parent=str(root / "one"))
    second.close("FINISHED")
    picture(0).save(root / "photo.jpg", format="PNG")
    return root


@pytest.fixture(autouse=True)
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)


def run(line: str, code: int = 0) -> tuple[str, str]:
    result = RUNNER.invoke(app, shlex.split(line))
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_what_the_page_shows_does_what_it_says(folder: Path) -> None:
    lines = [line.partition("florencectl ")[2] for line in shown_in(ROOT / "docs/registry.md")]
    said = [run(line) for line in lines]
    told = dict(zip(lines, said, strict=True))
    listed = told["models list"][0].splitlines()
    assert listed[1].split()[:5] == ["digits-contrastive", "contrastive", "2", "-", "2"]
    wide = told["models list digits-contrastive -o wide"][0]
    assert "models:/digits-contrastive/1" in wide.splitlines()[1]
    assert "card.resolution" in told["models show digits-contrastive@candidate"][0]
    (gate,) = (line for line in lines if "--if" in line)
    assert "no version is 'champion' yet" in told[gate][0]
    assert "is models:/digits-contrastive/2 (was: None)" in told[gate][1]
    lineage = told["models lineage digits-contrastive@champion"][0].splitlines()
    assert [line.split()[1] for line in lineage[1:]] == ["one"]  # the page made it the champion
    compared = next(told[line] for line in lines if line.startswith("models compare"))[0]
    assert compared.splitlines()[1].split() == ["digits/top1", "0.81", "0.82"]
    (predicted,) = (told[line] for line in lines if line.startswith("predict"))
    assert "photo.jpg" in predicted[0]


def test_a_gate_that_stays_closed_ends_with_1_and_changes_nothing() -> None:
    run("models alias digits-contrastive/2 champion")
    line = "models promote digits-contrastive/1 --if 'digits/top1 > champion'"
    out, err = run(line, code=1)
    assert out == "digits/top1 > champion: does not hold (0.81 > 0.82)\n"
    assert "champion: models:/digits-contrastive/2" in err
    document = json.loads(run(f"{line} -o json", code=1)[0])
    assert (document["passed"], document["moved"]) == (False, False)
    shown = json.loads(run("models show digits-contrastive@champion -o json")[0])
    assert shown["version"] == "2"


def test_an_alias_is_taken_away() -> None:
    run("models alias digits-contrastive/1 best")
    run("models alias digits-contrastive best --delete")
    assert "has no alias 'best'" in run("models show digits-contrastive@best", code=3)[1]
    assert "has no alias 'best'" in run("models alias digits-contrastive best --delete", code=2)[1]


def test_mistakes_are_one_line() -> None:
    for line, code, said in [
        ("models show other", 3, "no registered model 'other'; there: digits-contrastive"),
        ("models show a/b/c", 2, "is no version of a model"),
        ("models compare digits-contrastive", 2, "needs two models or more"),
        ("models promote digits-contrastive --if 'top1 >'", 2, "its end is not a number"),
        ("models promote digits-contrastive --if 'top1 > 1'", 2, "it has digits/top1"),
        ("predict models:/digits-contrastive@none photo.jpg --labels a,b", 3, "no alias 'none'"),
    ]:
        err = run(line, code)[1]
        assert said in err
        assert err.count("\n") == 1

"""Which pages are taken, without a browser; ``make screenshots`` needs one."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from florence_jobs.local import Records
from florence_operator.api import FlorenceJob
from tools import screenshots

ROOT = Path(__file__).parents[2]
RUNS = [
    ("job", {}),
    ("measured", {"florence.kind": "evaluate"}),
    ("second", {"florence.kind": "pretrain"}),
    ("first", {"florence.kind": "pretrain"}),
]


def told(url: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """What MLflow answers about one job, newest first."""
    if url.endswith("/experiments/search"):
        return {"experiments": [{"experiment_id": "7"}]}
    if url.endswith("/runs/search"):
        runs = [
            {
                "info": {"run_id": name, "experiment_id": "7"},
                "data": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
            }
            for name, tags in RUNS
        ]
        return {"runs": runs}
    assert question == {"experiment_ids": ["7"]}
    models = [("m-2", "second"), ("m-1", "first")]
    return {"models": [{"info": {"model_id": m, "source_run_id": r}} for m, r in models]}


def test_the_pages_are_those_of_the_first_stage_and_of_the_last_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(screenshots, "answer", told)
    pages = {page.name: page.path for page in screenshots.pages("http://server")}
    assert pages["stage-charts"].startswith("#/experiments/7/runs/first/model-metrics?")
    assert pages["evaluation"].startswith("#/experiments/7/runs/measured?")
    assert pages["model"].startswith("#/experiments/7/models/m-1?")
    assert all("workflowType=machine_learning" in path for path in pages.values())


def test_without_a_browser_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="no browser: install one of chromium"):
        screenshots.browser_program()


def test_the_report_is_that_of_the_newest_job(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for name, top1 in (("old", 0.5), ("new", 0.875)):
        document = yaml.safe_load((ROOT / "jobs/samples/digits.yaml").read_text())
        (stage, *_) = document["spec"]["stages"]
        found = {"name": "mixed", "state": "Succeeded", "metrics": {"top1": top1, "steps": 60}}
        records.save(
            FlorenceJob.model_validate(
                {
                    **document,
                    "metadata": {"name": name},
                    "spec": {**document["spec"], "stages": [stage]},
                    "status": {"phase": "Succeeded", "stages": [found]},
                }
            )
        )
        os.utime(records.folder("default", name) / "job.json", (top1, top1))
    text, page = screenshots.report(tmp_path)
    assert (page.shows, page.path) == ("new", "report.html")
    for fact in ("<h1>new</h1>", "<td>0.8750</td>", "<td>60</td>", "~/.florence/artifacts/default"):
        assert fact in text
    assert str(tmp_path) not in text


def test_pictures_of_the_docs_are_small_and_shown() -> None:
    shown = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    for picture in (ROOT / "docs/pictures").iterdir():
        assert f"](pictures/{picture.name})" in shown, picture
        assert picture.stat().st_size < 60_000, picture


def test_a_palette_makes_pictures_smaller() -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, format="PNG")
    made = screenshots.smaller(buffer.getvalue())
    assert Image.open(io.BytesIO(made)).mode == "P"

"""Which pages are taken, without a browser; ``make screenshots`` needs one."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

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

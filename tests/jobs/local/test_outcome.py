from __future__ import annotations

import json
from pathlib import Path

from florence_jobs.local.outcome import example_of, failure_line_of, results_of
from florence_jobs.recipes.digits import digits
from florence_operator.api.v1alpha1 import Artifacts


def test_the_message_is_the_last_error_of_the_rank_that_failed_first(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "2026 [rank 0] INFO Step 1\n"
        "2026 [rank 1] ERROR Traceback (most recent call last):\n"
        "  File x\n"
        "2026 [rank 0] ERROR Lost the other processes\n"
        "2026 [rank 1] ERROR Unexpected ValueError: the cause\n"
    )
    assert failure_line_of(log) == "Unexpected ValueError: the cause"


def test_without_an_error_the_last_line_speaks(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x" * 300_000 + "\nSegmentation fault\n\n")
    assert failure_line_of(log) == "Segmentation fault"
    log.write_text("")
    assert failure_line_of(log) == "ended without a message"


def test_results_and_example_are_read_from_the_artifacts(tmp_path: Path) -> None:
    folder = tmp_path / "default" / "digits" / "zero-shot"
    folder.mkdir(parents=True)
    assert results_of(str(folder), Artifacts()).metrics == {}
    assert example_of(digits(), str(tmp_path)) is None
    document = {
        "metrics": {"digits/top1": 0.98},
        "mlflowRun": "r",
        "example": {"image": "example.png", "labels": ["zero", "one"], "prompts": "digits"},
    }
    (folder / "metrics.json").write_text(json.dumps(document))
    results = results_of(str(folder), Artifacts())
    assert (results.metrics, results.mlflow_run) == ({"digits/top1": 0.98}, "r")
    example = example_of(digits(), str(tmp_path))
    assert example is not None
    assert example.image == f"{folder}/example.png"
    (folder / "metrics.json").write_text("torn {")
    assert results_of(str(folder), Artifacts()).metrics == {}

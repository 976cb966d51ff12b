"""What is said about the samples, without running them; CI runs them short."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from florence_operator.api import Stage, load_job
from florencectl.job_file import changed
from tools.samples import (
    SAMPLES,
    is_comparison,
    metrics_of,
    of_stages,
    on_model,
    rows_of,
    rows_on,
    shortfalls,
    with_table,
    without_comparisons,
)


@pytest.mark.parametrize("name", SAMPLES)
def test_short_forms_and_requirements_name_stages_of_the_sample(name: str) -> None:
    job = load_job(Path(f"jobs/samples/{name}.yaml"))
    sample = SAMPLES[name]
    changed(job, sample.short)
    stages = {stage.name for stage in job.spec.stages}
    assert {path.partition("/")[0] for path in (*sample.required, *sample.chance)} <= stages
    assert {each.partition(".")[0] for each in sample.short} <= stages
    assert sample.required


def test_a_short_form_may_start_from_a_model_that_is_there(tmp_path: Path) -> None:
    document = yaml.safe_load(Path("jobs/samples/digits-detection.yaml").read_text())
    path = tmp_path / "job.yaml"

    def stages(*left_out: str) -> dict[str, Stage]:
        path.write_text(yaml.safe_dump(on_model(document, left_out, "/models/digits")))
        return {stage.name: stage for stage in load_job(path).spec.stages}

    without_first = stages("scans")
    starts = {name: stage.initial_model for name, stage in without_first.items()}
    assert starts.pop("pretrain") == "/models/digits"
    assert set(starts.values()) == {None}
    assert not without_first["pretrain"].depends_on
    assert without_first["boxes"].depends_on == ("pretrain",)

    without_both = stages("scans", "pretrain")
    assert list(without_both) == ["boxes", "boxes-scratch", "zero-shot", "five-shot"]
    assert without_both["boxes"].initial_model == "/models/digits"
    assert not without_both["boxes"].depends_on


@pytest.mark.parametrize("name", SAMPLES)
def test_a_short_form_has_what_is_looked_at_and_nothing_to_compare_it_with(name: str) -> None:
    sample = SAMPLES[name]
    document = yaml.safe_load(Path(f"jobs/samples/{name}.yaml").read_text())
    kept = without_comparisons(document)
    names = {stage["name"] for stage in kept["spec"]["stages"]}
    assert {path.partition("/")[0] for path in (*sample.required, *sample.chance)} <= names
    assert not any(is_comparison(each) for each in names)
    # Every assignment is of use where nothing is left out for a model's sake.
    assert of_stages(sample.short, kept) == sample.short
    pretrained = on_model(kept, sample.pretraining, "/models/digits")
    assert {each.partition(".")[0] for each in of_stages(sample.short, pretrained)} == {
        each.partition(".")[0] for each in sample.short
    } - set(sample.pretraining)


def test_metrics_are_named_by_stage_and_judged() -> None:
    job = {"status": {"stages": [{"name": "a", "metrics": {"x/top1": 0.5}}, {"name": "b"}]}}
    metrics = metrics_of(job)
    assert metrics == {"a/x/top1": 0.5}
    assert shortfalls(metrics, {"a/x/top1": 0.5}) == []
    assert shortfalls(metrics, {"a/x/top1": 0.6, "b/y": 0.1}) == [
        "a/x/top1 is 0.5000, below 0.6",
        "b/y is missing",
    ]


def test_rows_go_between_the_marks_and_nowhere_else() -> None:
    rows = rows_of("digits", {"a/x/top1": 0.98765, "a/steps": 400.0}, 90.0)
    assert rows == ["| digits | a | x/top1 | 98.77 % |", "| digits | | minutes | 1.5 |"]
    page = "before\n<!-- samples:begin (words) -->\nold\n<!-- samples:end -->\nafter\n"
    fresh = with_table(page, {"digits": rows})
    head = "| sample | stage | metric | value |\n|---|---|---|---|\n"
    assert fresh == page.replace("old", head + "\n".join(rows))
    assert rows_on(fresh) == {"digits": rows}
    with pytest.raises(SystemExit, match="to write between"):
        with_table("no marks", {})


def test_rows_of_samples_that_did_not_run_stay() -> None:
    page = "<!-- samples:begin -->\n<!-- samples:end -->\n"
    first = {"digits-video": ["| digits-video | a | b | 1 |"], "digits": ["| digits | a | b | 2 |"]}
    page = with_table(page, first)
    assert list(rows_on(page)) == ["digits", "digits-video"]
    again = with_table(page, {**rows_on(page), "digits": ["| digits | a | b | 3 |"]})
    assert rows_on(again) == {**first, "digits": ["| digits | a | b | 3 |"]}

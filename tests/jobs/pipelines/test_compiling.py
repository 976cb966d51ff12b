"""The compiled pipelines: what is released is what the code says, and wrong wiring is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("kfp", reason="the extra 'pipelines' is not installed")

from kfp import dsl
from kfp.dsl.types.type_utils import InconsistentTypeException

from florence.errors import ConfigurationError
from florence_jobs.pipelines import components
from florence_jobs.pipelines.compiling import COMPILED, compiled, write_compiled
from florence_jobs.pipelines.definitions import PIPELINES
from florence_jobs.pipelines.examples import example_arguments
from florence_jobs.pipelines.parameters import arguments_of, check_complete, parameters_of
from florence_jobs.pipelines.requests import requested


@pytest.mark.parametrize("name", PIPELINES)
def test_what_is_released_is_fresh(name: str) -> None:
    assert (COMPILED / f"{name}.yaml").read_text(encoding="utf-8") == compiled(name)


def test_a_stale_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_compiled(tmp_path, check=False) == 0
    assert write_compiled(tmp_path, check=True) == 0
    (tmp_path / "nightly-evaluation.yaml").write_text("stale")
    assert write_compiled(tmp_path, check=True) == 1
    assert "nightly-evaluation.yaml" in "".join(capsys.readouterr())


def test_the_steps_run_in_the_image_that_is_asked_for() -> None:
    spec = next(yaml.safe_load_all(compiled("nightly-evaluation", "here/jobs:2")))
    executors = spec["deploymentSpec"]["executors"].values()
    assert {each["container"]["image"] for each in executors} == {"here/jobs:2"}
    # Nothing is installed when a step starts: the image has it.
    assert not any("pip install" in str(each) for each in executors)


def test_what_is_set_on_a_jobs_task_is_passed_on() -> None:
    spec = next(yaml.safe_load_all(compiled("nightly-evaluation")))
    passed = spec["components"]["comp-evaluate-model"]["taskConfigPassthroughs"]
    assert {each["field"] for each in passed} == {
        "RESOURCES",
        "KUBERNETES_TOLERATIONS",
        "KUBERNETES_NODE_SELECTOR",
        "ENV",
        "KUBERNETES_VOLUMES",
    }


def test_steps_that_act_are_never_answered_from_a_cache() -> None:
    for name in PIPELINES:
        assert "enableCache: true" not in compiled(name)


def test_wrong_wiring_does_not_compile() -> None:
    with pytest.raises(InconsistentTypeException):

        @dsl.pipeline
        def wrong():  # type: ignore[no-untyped-def]  # KFP takes no annotation that is a string
            indexed = components.index_data(uri="s3://bucket/shards")
            components.index_data(uri=indexed.outputs["samples"])

    with pytest.raises(TypeError, match="missing"):
        components.compare_models()


def test_no_such_pipeline_is_said_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="use one of pretrain-and-adapt, "):
        compiled("other")


@pytest.mark.parametrize("name", PIPELINES)
def test_an_example_has_all_that_its_pipeline_needs(name: str) -> None:
    arguments = example_arguments(name)
    check_complete(name, arguments)
    jobs = [arguments[key] for key in ("pretrain", "evaluation", "job") if key in arguments]
    for text in [*jobs, *arguments.get("adaptations", ())]:
        assert requested(text, initial_model="m").spec.stages


def test_arguments_are_values_or_files(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("kind: FlorenceJob\n")
    found = arguments_of(
        "pretrain-and-adapt",
        ["data=s3://b/d", f"pretrain=@{file}", f"adaptations=@{file}", "adaptations=[a, b]"],
    )
    assert found == {
        "data": "s3://b/d",
        "pretrain": "kind: FlorenceJob\n",
        "adaptations": ["kind: FlorenceJob\n", "a", "b"],
    }
    with pytest.raises(ConfigurationError, match="needs evaluation"):
        check_complete("pretrain-and-adapt", found)
    for wrong in ("other=1", "data", f"pretrain=@{tmp_path}/none"):
        with pytest.raises(ConfigurationError, match="--set"):
            arguments_of("pretrain-and-adapt", [wrong])
    assert parameters_of("pretrain-and-adapt")["alias"].default == "champion"

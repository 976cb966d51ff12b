from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from florence.config import Evaluate, ModelConfig
from florence.config.base import setting
from florence.kinds import KINDS
from florence.tasks.kind import Kind
from florence.tasks.pretrain.settings import Pretrain
from florence_operator.api import FlorenceJob, JobSpec, StagePlan, load_plan, to_yaml
from florence_operator.api.duration import seconds
from florence_operator.api.problems import problems

PRETRAIN = {"data": "d", "batchSize": 4, "steps": 2}


def stage(name: str, *depends_on: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "dependsOn": list(depends_on), **(fields or {"pretrain": PRETRAIN})}


def job(*stages: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": "j"},
        "spec": {"stages": list(stages)},
    }


def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        FlorenceJob.model_validate(document)
    return str(caught.value)


EVALUATE = {"zeroShot": [{"name": "z", "data": "d", "prompts": "digits"}]}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "at least 1 item"),
        ([{"name": "a"}], "'a' has none"),
        ([stage("a", pretrain=PRETRAIN, evaluate=EVALUATE)], "has pretrain and evaluate"),
        ([stage("a"), stage("a")], "'a' is used 2 times"),
        ([stage("a", "b")], "depends on 'b', which is not a stage"),
        ([stage("a", "b"), stage("b", "a")], "cycle"),
        ([stage("a", "a")], "cycle"),
        ([stage("A")], "match pattern"),
        ([{"name": "e", "evaluate": EVALUATE}], "dependsOn"),
        ([stage("a", segmentation={})], "Extra inputs"),
    ],
)
def test_wrong_stages_are_refused(stages: list[dict[str, Any]], message: str) -> None:
    assert message in refusal(job(*stages))


def test_a_misspelt_hyperparameter_is_refused_at_its_path() -> None:
    text = refusal(job(stage("a", pretrain={**PRETRAIN, "optimizer": {"lear": 1}})))
    assert "spec.stages.0.pretrain.optimizer.lear" in text


@given(st.permutations(range(6)), st.data())
def test_any_acyclic_graph_is_ordered_after_its_dependencies(
    order: list[int], data: st.DataObject
) -> None:
    names = [f"s{i}" for i in order]
    stages = [
        stage(name, *data.draw(st.sets(st.sampled_from(names[:i])) if i else st.just(set())))
        for i, name in enumerate(names)
    ]
    shuffled = data.draw(st.permutations(stages))
    ordered = JobSpec.model_validate({"stages": shuffled}).in_order()
    place = {s.name: i for i, s in enumerate(ordered)}
    assert len(place) == 6
    assert all(place[d] < place[s.name] for s in ordered for d in s.depends_on)


def test_a_model_comes_from_the_nearest_stage_that_trains() -> None:
    spec = FlorenceJob.model_validate(
        job(
            stage("a"),
            stage("b", "a"),
            stage("check", "b", evaluate=EVALUATE),
            stage("c", "check", "a"),
        )
    ).spec
    sources = {s.name: spec.model_source(s) for s in spec.stages}
    assert {n: s.name if s else None for n, s in sources.items()} == {
        "a": None,
        "b": "a",
        "check": "b",
        "c": "b",
    }


def test_a_manifest_keeps_what_was_written_and_nothing_else() -> None:
    document = job(stage("a"))
    del document["spec"]["stages"][0]["dependsOn"]
    read = FlorenceJob.model_validate(document)
    assert read.manifest() == document
    assert "status" not in to_yaml(read.manifest())


def test_a_plan_survives_its_json() -> None:
    plan = StagePlan.model_validate(
        {
            "job": "j",
            "namespace": "n",
            "uid": "u",
            "stage": "s",
            "attempt": 2,
            "kind": "evaluate",
            "config": EVALUATE,
            "model": {"preset": "coswin-nano"},
            "output": "/o",
        }
    )
    assert StagePlan.model_validate_json(plan.model_dump_json(by_alias=True)) == plan
    assert isinstance(plan.config, Evaluate)
    assert plan.config.zero_shot[0].name == "z"


class Twin(Pretrain):
    """Settings that look just like those of another kind."""

    mode: str = setting("plain", description="what it does")


def test_a_plan_comes_back_as_its_own_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of two kinds may look the same: the plan's kind says which they are."""
    monkeypatch.setitem(KINDS, "twin", Kind(name="twin", help="a twin", settings=Twin))
    for name, kind in (("pretrain", Pretrain), ("twin", Twin)):
        plan = StagePlan(
            job="j",
            namespace="n",
            uid="u",
            stage="s",
            attempt=1,
            kind=name,
            config=kind.model_validate(PRETRAIN),
            model=ModelConfig(preset="coswin-nano"),
            output="/o",
        )
        read = load_plan(plan.model_dump_json(by_alias=True, exclude_unset=True))
        assert type(read.config) is kind
        assert read.config == plan.config
    with pytest.raises(ValidationError, match=r"'third' is none of pretrain, finetune, .*evaluate"):
        load_plan(plan.model_dump_json().replace('"twin"', '"third"'))


CLASSIFY = {"classification": [{"name": "c", "data": "d"}]}


@pytest.mark.parametrize(
    ("stages", "line"),
    [
        (
            [stage("a"), stage("a")],
            "spec.stages[1].name: the name 'a' is used 2 times",
        ),
        (
            [stage("a"), stage("b", "c")],
            "spec.stages[1].dependsOn: 'b' depends on 'c', which is not a stage",
        ),
        ([stage("a", "b"), stage("b", "a")], "spec.stages: a, b depend on each other in a cycle"),
        (
            [stage("a"), {"name": "e", "evaluate": EVALUATE}],
            "spec.stages[1].dependsOn: 'e' (evaluate) needs a model: name the stage that trains "
            "it, or give initialModel",
        ),
        (
            [stage("a"), stage("e", "a", evaluate=CLASSIFY)],
            "spec.stages[1].dependsOn: 'e' (evaluate) cannot start from the contrastive model of "
            "'a': it takes classification models",
        ),
        (
            [stage("a"), stage("e", "a", evaluate=EVALUATE), stage("f", "e", evaluate=CLASSIFY)],
            "spec.stages[2].dependsOn: 'f' (evaluate) cannot start from the contrastive model of "
            "'a': it takes classification models",
        ),
        (
            [stage("a", pretrain=PRETRAIN | {"epochs": 1})],
            "spec.stages[0].pretrain: give exactly one of steps and epochs",
        ),
        (
            [stage("a", pretrain={"data": "d", "batchSize": 4})],
            "spec.stages[0].pretrain: give exactly one of steps and epochs",
        ),
    ],
)
def test_refusals_name_the_field(stages: list[dict[str, Any]], line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FlorenceJob.model_validate(job(*stages))
    assert problems(caught.value, model=FlorenceJob) == [line]


def test_a_stage_with_a_model_of_its_own_may_follow_any_other() -> None:
    measured = stage("e", "a", evaluate=CLASSIFY, initialModel="s3://b/classifier")
    spec = FlorenceJob.model_validate(job(stage("a"), measured)).spec
    assert spec.model_source(spec.stage("e")) is None
    assert spec.initial_model(spec.stage("e")) == "s3://b/classifier"


@pytest.mark.parametrize(("text", "length"), [("90s", 90), ("1h30m", 5400), ("12d", 1036800)])
def test_durations(text: str, length: int) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("text", ["", "5", "5 m", "-5m", "1w", "m"])
def test_wrong_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        seconds(text)


def test_names_that_stay_usable_together() -> None:
    for name in itertools.chain(["a" * 41, "-a", "a-", "a_b", ""]):
        document = job(stage("a"))
        document["metadata"]["name"] = name
        assert "metadata.name" in refusal(document)

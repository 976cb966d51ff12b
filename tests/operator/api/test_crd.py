from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from florence.config import Training
from florence.config.base import setting
from florence.kinds import KINDS
from florence.tasks.pretrain.settings import Pretrain
from florence_operator.api import FlorenceJob
from florence_operator.api.crd import chart_template, crd, main, plain_file, structural_schema
from florence_operator.api.crd_rules import BOUNDS, COLUMNS, LIST_KEYS, RULES, one_length

ROOT = Path(__file__).parents[3]
FILES = [
    ROOT / "manifests/base/crds/florence.dev_florencejobs.yaml",
    ROOT / "charts/florence-operator/templates/crds.yaml",
]
SAMPLES = {path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob("jobs/samples/*.yaml")}
SCHEMA = structural_schema()


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within a schema, with its field's path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


def for_jsonschema(schema: Any) -> Any:
    """OpenAPI's dialect in JSON schema's words: nullable, exclusive bounds, no unknown fields."""
    if isinstance(schema, list):
        return [for_jsonschema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: for_jsonschema(value) for key, value in schema.items() if key != "default"}
    if schema.get("nullable"):
        if "type" in changed:
            changed["type"] = [changed["type"], "null"]
        if "enum" in changed:
            changed["enum"] = [*changed["enum"], None]
        if "anyOf" in changed:
            changed["anyOf"] = [*changed["anyOf"], {"type": "null"}]
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if changed.get(exclusive) is True:
            changed[exclusive] = changed.pop(bound)
    return changed


VALIDATOR = jsonschema.Draft202012Validator(for_jsonschema(SCHEMA))


def test_the_written_files_are_fresh() -> None:
    assert main(FILES, check=True) == 0


def test_a_stale_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stale = tmp_path / "crd.yaml"
    shutil.copy(FILES[0], stale)
    stale.write_text(stale.read_text().replace("florencejobs", "jobs"))
    assert main([stale, tmp_path / "missing.yaml"], check=True) == 1
    assert str(stale) in capsys.readouterr().err
    assert main([stale], check=False) == 0
    assert main([stale], check=True) == 0


def test_the_chart_has_the_same_crd() -> None:
    in_chart = [line for line in chart_template().splitlines() if "{{" not in line]
    text = "\n".join(line for line in in_chart if "resource-policy" not in line)
    document = yaml.safe_load(text)
    document["metadata"] = {"name": document["metadata"]["name"]}
    assert document == yaml.safe_load(plain_file()) == crd()


def test_the_schema_is_structural() -> None:
    for path, schema in nodes(SCHEMA):
        assert not {"$ref", "$defs", "allOf", "oneOf", "not", "const", "title"} & schema.keys(), (
            path
        )
        if "anyOf" in schema:
            assert schema["x-kubernetes-int-or-string"], path
        else:
            assert isinstance(schema["type"], str), path
        assert not ("properties" in schema and "additionalProperties" in schema), path
        assert path == "metadata" or schema["type" if "type" in schema else "anyOf"], path


def test_what_users_write_is_bounded_and_described() -> None:
    for path, schema in nodes(SCHEMA["properties"]["spec"], "spec"):
        kind = schema.get("type")
        if kind == "string":
            assert "maxLength" in schema or "enum" in schema, path
        if kind == "array":
            assert "maxItems" in schema, path
        if "additionalProperties" in schema:
            assert "maxProperties" in schema, path
        if not path.endswith(("[]", "{}")):
            assert schema["description"], path


def test_units_are_in_the_descriptions() -> None:
    fields = dict(nodes(SCHEMA))
    assert fields["spec.stages[].pretrain.optimizer.warmupSteps"]["description"].endswith(
        "(unit: steps)"
    )
    assert fields["spec.nodePool.tolerations[].tolerationSeconds"]["description"].endswith(
        "(unit: seconds)"
    )


class Probe(Training):
    """A kind of which one mode has no optimizer steps."""

    closed_form = {"probe_mode": ("linearProbe", "fewShot")}  # noqa: RUF012  a ClassVar above
    probe_mode: str = setting("head", description="what is trained")


def test_every_kind_that_trains_has_the_rule_of_one_length() -> None:
    plain = "has(self.steps) != has(self.epochs)"
    for kind in KINDS.values():
        rules = [rule["rule"] for rule in RULES.get(f"spec.stages[].{kind.name}", [])]
        assert issubclass(kind.settings, Training) == any(plain in rule for rule in rules)
    assert one_length(Pretrain)["rule"] == plain
    assert one_length(Probe)["rule"] == (
        "has(self.probeMode) && self.probeMode in ['linearProbe', 'fewShot'] || " + plain
    )
    given = {"data": "d", "batchSize": 2}
    assert not Probe.model_validate(given | {"probeMode": "fewShot"}).trains_in_steps
    assert Probe.model_validate(given | {"steps": 3}).trains_in_steps
    with pytest.raises(ValidationError, match="exactly one of steps and epochs"):
        Probe.model_validate(given)


def test_a_kind_that_needs_a_model_has_a_rule_that_says_so() -> None:
    rules = "\n".join(rule["rule"] for rule in RULES["spec.stages[]"])
    for kind in KINDS.values():
        needs = f"!has(self.{kind.name}) || has(self.initialModel) || " in rules
        assert needs == kind.needs_model


def test_rules_keys_and_bounds_are_of_fields_that_exist() -> None:
    fields = dict(nodes(SCHEMA))
    for path in [*RULES, *LIST_KEYS, *BOUNDS]:
        assert path in fields, path
    for path, keys in LIST_KEYS.items():
        assert set(keys) <= set(fields[path]["items"]["required"])
    for column in COLUMNS:
        path = column["jsonPath"].lstrip(".")
        assert path.startswith("metadata.") or path in fields, column


def test_a_group_of_settings_is_filled_by_the_defaults_of_its_fields() -> None:
    """The API server fills ``{}`` with the defaults below it; the result is what pydantic has."""
    job = SAMPLES["florence-h"]
    filled = with_defaults(SCHEMA["properties"]["spec"], copy.deepcopy(job["spec"]))
    assert FlorenceJob.model_validate({**job, "spec": filled}) == FlorenceJob.model_validate(job)
    assert filled["stages"][0]["pretrain"]["optimizer"]["beta2"] == 0.98
    assert filled["runPolicy"]["gracePeriod"] == "60s"


def with_defaults(schema: dict[str, Any], value: Any) -> Any:
    """A value as the API server would store it."""
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                value[name] = with_defaults(inner, value[name])
    elif isinstance(value, list):
        value = [with_defaults(schema["items"], item) for item in value]
    return value


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_accepted(name: str) -> None:
    VALIDATOR.validate(SAMPLES[name])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside a document, but its metadata."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        if (*path, key) != ("metadata",):
            yield (*path, key)
            yield from places(inner, (*path, key))


PLACES = {name: list(places(sample)) for name, sample in SAMPLES.items()}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.integers(-3, 300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(0, 1),
    st.text(max_size=12),
    st.sampled_from(
        ["10m", "s3://a/b", "fp16", "auto", "full", "mixed", "pretrain", "12d", "16Gi"]
    ),
    st.lists(st.integers(0, 4) | st.text(max_size=3), max_size=5),
    st.dictionaries(st.sampled_from(["name", "data", "steps", "a"]), st.integers(), max_size=2),
)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A sample in which some values are others, or gone."""
    name = draw(st.sampled_from(sorted(SAMPLES)))
    job = copy.deepcopy(SAMPLES[name])
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from(PLACES[name]))
        holder: Any = job
        try:
            for key in above:
                holder = holder[key]
            if draw(st.booleans()):
                holder[last] = draw(VALUES)
            else:
                del holder[last]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    return job


@settings(max_examples=400, deadline=None)
@given(mutated())
def test_the_schema_never_refuses_what_the_models_accept(job: dict[str, Any]) -> None:
    try:
        FlorenceJob.model_validate_json(json.dumps(job), strict=True)
    except ValidationError:
        return
    refusals = [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(job)]
    assert not refusals


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "stages", 0, "pretrain", "optimizer", "lr"), 0),
        (("spec", "stages", 0, "pretrain", "optimizer", "beta1"), 1),
        (("spec", "stages", 0, "pretrain", "precision"), "fp8"),
        (("spec", "stages", 0, "pretrain", "steps"), 1.5),
        (("spec", "stages", 0, "resources", "workers"), 0),
        (("spec", "stages", 0, "name"), "Upper"),
        (("spec", "stages"), []),
        (("spec", "runPolicy", "deadline"), "soon"),
        (("spec", "runPolicy", "stallTimeout"), ""),
        (("spec", "model"), {"image": {"depths": [1, 2, 3]}}),
        (("metadata", "name"), "a" * 41),
    ],
)
def test_the_schema_refuses_what_the_models_refuse(path: tuple[Any, ...], value: Any) -> None:
    job = copy.deepcopy(SAMPLES["florence-h"])
    holder = job
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    assert [error.json_path for error in VALIDATOR.iter_errors(job)]
    with pytest.raises(ValidationError):
        FlorenceJob.model_validate(job)


def test_a_client_may_apply_it() -> None:
    """`kubectl apply` keeps the whole object in an annotation; all of them may have 256 KiB.

    It is JSON as Go writes it: without spaces, UTF-8, and with six bytes for <, > and &.
    """
    text = json.dumps(crd(), separators=(",", ":"), ensure_ascii=False)
    kept = len(text.encode()) + 5 * sum(text.count(mark) for mark in "<>&")
    name = len("kubectl.kubernetes.io/last-applied-configuration")
    assert kept + name < 256 * 1024 - 16 * 1024  # what the chart and its users annotate beside it

"""The FlorenceJob that a step asks for: from YAML or a recipe, with what the task itself says."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from florence.config.yaml_document import DocumentError, read_yaml
from florence.errors import ConfigurationError
from florence_operator.api import FlorenceJob
from florence_operator.api.problems import problems

LONGEST_NAME = 40
RUN, TASK = "florence.dev/pipeline-run", "florence.dev/pipeline-task"
"""Labels of a job that a pipeline made: the run and the task of it."""
SPEC = "florence.dev/pipeline-spec"
"""Annotation of such a job: a digest of what was asked for."""


def requested(
    job: str = "",
    *,
    recipe: str = "",
    settings: Mapping[str, Any] | None = None,
    initial_model: str = "",
) -> FlorenceJob:
    """The job that a step describes.

    Args:
        job: a FlorenceJob in YAML or JSON; empty for a recipe.
        recipe: name of a recipe, as of the samples; empty for a document.
        settings: by ``stage.field``, ``model.field`` or ``name``: what is changed in it.
        initial_model: what stages start from that depend on no other.

    Raises:
        ConfigurationError: the document or a setting is wrong; names the field.
    """
    if bool(job.strip()) == bool(recipe):
        raise ConfigurationError("give exactly one of job, a FlorenceJob, and recipe, a name")
    document = _of_recipe(recipe) if recipe else _of_text(job)
    for path, value in (settings or {}).items():
        _set(document, path, value)
    if initial_model:
        for stage in document.get("spec", {}).get("stages", ()):
            if not stage.get("dependsOn"):
                stage["initialModel"] = initial_model
    return _validated(document)


def named(job: FlorenceJob, run: str, task: str) -> FlorenceJob:
    """The job under the name that this task of this run has, whenever it is started.

    The name of the document is its beginning; a digest of run, task and that name ends it.
    """
    base = job.metadata.name
    digest = hashlib.sha256(f"{run}\0{task}\0{base}".encode()).hexdigest()[:8]
    name = f"{base[: LONGEST_NAME - 9].rstrip('-')}-{digest}"
    labels = {**job.metadata.labels, RUN: _label(run), TASK: _label(task)}
    annotations = {**job.metadata.annotations, SPEC: digest_of(job)}
    metadata = job.metadata.model_copy(
        update={"name": name, "labels": labels, "annotations": annotations}
    )
    return job.model_copy(update={"metadata": metadata})


def digest_of(job: FlorenceJob) -> str:
    """What tells two requests apart: a SHA-256 of the spec as it was asked for."""
    text = json.dumps(job.spec.wire(defaults=False), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def with_task_settings(job: FlorenceJob, task: Mapping[str, Any]) -> FlorenceJob:
    """The job with what was set on the pipeline's task: resources, nodes, environment, volumes.

    Args:
        task: the fields of ``kfp.dsl.TaskConfig`` that were set, as Kubernetes writes them.

    Raises:
        ConfigurationError: a FlorenceJob cannot take something of it; names what it takes instead.
    """
    document = job.manifest()
    spec = document["spec"]
    for stage in spec["stages"]:
        found = _resources(task.get("resources") or {})
        if found:
            stage["resources"] = {**stage.get("resources", {}), **found}
    pool, pods = copy.deepcopy(spec.get("nodePool", {})), copy.deepcopy(spec.get("pods", {}))
    if selector := task.get("node_selector"):
        pool["selector"] = {**pool.get("selector", {}), **selector}
    if tolerations := task.get("tolerations"):
        pool["tolerations"] = [*pool.get("tolerations", ()), *tolerations]
    if environment := _environment(task.get("env") or ()):
        pods["environment"] = {**pods.get("environment", {}), **environment}
    if volumes := _volumes(task.get("volumes") or (), task.get("volume_mounts") or ()):
        pods["volumes"] = [*pods.get("volumes", ()), *volumes]
    if task.get("affinity"):
        raise ConfigurationError(
            "the task's affinity: a FlorenceJob has none: set a node selector instead"
        )
    changed = {"nodePool": pool, "pods": pods}
    spec |= {name: value for name, value in changed.items() if value}
    return _validated(document)


def _resources(resources: Mapping[str, Any]) -> dict[str, Any]:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    both = {**limits, **requests}
    found: dict[str, Any] = {}
    if "cpu" in both:
        found["cpu"] = str(both["cpu"])
    if "memory" in both:
        found["memory"] = str(limits.get("memory", both["memory"]))
    for name in both.keys() - {"cpu", "memory"}:
        if name != "nvidia.com/gpu":
            raise ConfigurationError(
                f"the task's resource '{name}': a FlorenceJob takes cpu, memory and nvidia.com/gpu"
            )
        found["gpusPerWorker"] = int(both[name])
    return found


def _environment(variables: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    found = {}
    for variable in variables:
        if "valueFrom" in variable:
            raise ConfigurationError(
                f"the task's environment variable {variable['name']} is of a Secret or ConfigMap: "
                "name Secrets in the job's artifacts.credentialsSecret and "
                "tracking.credentialsSecret"
            )
        found[str(variable["name"])] = str(variable.get("value", ""))
    return found


def _volumes(
    volumes: Sequence[Mapping[str, Any]], mounts: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    claims = {
        volume["name"]: (volume.get("persistentVolumeClaim") or {}).get("claimName")
        for volume in volumes
    }
    found = []
    for mount in mounts:
        claim = claims.get(mount["name"])
        if not claim:
            raise ConfigurationError(
                f"the task's volume '{mount['name']}' is no PersistentVolumeClaim, which is what "
                "a FlorenceJob takes"
            )
        if mount.get("subPath"):
            raise ConfigurationError(
                f"the task's volume '{mount['name']}' has a subPath: a FlorenceJob takes whole "
                "volumes"
            )
        found.append(
            {
                "mountPath": mount["mountPath"],
                "readOnly": bool(mount.get("readOnly", False)),
                "persistentVolumeClaim": claim,
            }
        )
    return found


def _of_recipe(name: str) -> dict[str, Any]:
    from florence_jobs.recipes.registry import RECIPES

    if name not in RECIPES:
        raise ConfigurationError(f"recipe: '{name}' is none of {', '.join(RECIPES)}")
    return RECIPES[name].job().manifest()


def _of_text(text: str) -> dict[str, Any]:
    try:
        document = read_yaml(text)
    except DocumentError as error:
        raise ConfigurationError(f"job: {error}") from None
    if not isinstance(document, dict):
        raise ConfigurationError("job: is no FlorenceJob, a mapping with apiVersion, kind and spec")
    return document


def _set(document: dict[str, Any], path: str, value: Any) -> None:
    """Change one setting of a stage, of the model, or the name."""
    first, *rest = path.split(".")
    stages = {s.get("name"): s for s in document.get("spec", {}).get("stages", ())}
    if path == "name":
        document.setdefault("metadata", {})["name"] = value
        return
    if first == "model" and rest:
        holder = document["spec"].setdefault("model", {})
    elif first in stages and rest:
        stage = stages[first]
        kind = next((k for k in stage if k not in _OF_ANY_STAGE), None)
        holder = stage if rest[0] in _OF_ANY_STAGE else stage.setdefault(kind or rest[0], {})
        if rest[0] in ("steps", "epochs"):
            holder.pop("epochs" if rest[0] == "steps" else "steps", None)
    else:
        raise ConfigurationError(
            f"settings: '{path}' is none: write STAGE.FIELD with one of the stages "
            f"{', '.join(map(str, stages))}, model.FIELD, or name"
        )
    for group in rest[:-1]:
        holder = holder.setdefault(group, {})
    holder[rest[-1]] = value


_OF_ANY_STAGE = {"name", "dependsOn", "initialModel", "resources"}


def _label(text: str) -> str:
    """A text as the value of a label."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in text)
    return kept[:63].strip("-_.")


def _validated(document: Mapping[str, Any]) -> FlorenceJob:
    try:
        return FlorenceJob.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError("\n".join(problems(error, model=FlorenceJob))) from None

"""The jobs of a sweep: one for every combination of the values that settings are given."""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from florence.errors import ConfigurationError
from florence_operator.api.stage import SWEEP_LABEL, SWEEP_VALUES
from florencectl.completing import setting_paths
from florencectl.job_file import changed
from florencectl.run_display import shown

if TYPE_CHECKING:
    from florence_operator.api import FlorenceJob

MOST = 1_000
_NO_RESULTS = ("steps", "logitScale")
_SEEDS = ("seed", "shotsSeed")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


@dataclass(frozen=True, slots=True)
class Variant:
    """One job of a sweep, and the values that make it different from the others."""

    job: FlorenceJob
    values: Mapping[str, str]


def variants(job: FlorenceJob, assignments: Sequence[str]) -> list[Variant]:
    """The jobs ``<name>-0``, ``<name>-1``, …, the last assignment varying fastest.

    Each has the label ``florence.dev/sweep: <name>`` and is otherwise the job with some settings
    changed.

    Args:
        assignments: ``stage.field=VALUES``, or ``field=VALUES`` for every stage whose kind has that
            field. VALUES are commas between values (``1e-4,3e-4``), ``A..B`` for whole numbers
            from A to B, or one value; ``[a,b]`` is one value.

    Raises:
        ConfigurationError: nothing varies, a field is of no stage, or there are too many jobs.
    """
    axes: dict[str, list[str]] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {assignment}: write it as field=VALUE,VALUE")
        if path in axes:
            raise ConfigurationError(f"--set {path}: given twice; write its values with commas")
        axes[path] = values_of(text)
    count = math.prod(len(values) for values in axes.values())
    if count < 2:
        raise ConfigurationError(
            "nothing varies: give a --set several values, such as optimizer.lr=1e-4,3e-4 or "
            "seed=0..2"
        )
    if count > MOST:
        raise ConfigurationError(f"{count} combinations: a sweep has at most {MOST} jobs")
    reached = {path: paths_of(job, path) for path in axes}
    found = []
    for number, chosen in enumerate(itertools.product(*axes.values())):
        values = dict(zip(axes, chosen, strict=True))
        each = [f"{to}={value}" for path, value in values.items() for to in reached[path]]
        variant = changed(job, [*each, f"name={job.metadata.name}-{number}"])
        varying = {path: value for path, value in values.items() if len(axes[path]) > 1}
        metadata = variant.metadata.model_copy(
            update={
                "labels": {**variant.metadata.labels, SWEEP_LABEL: job.metadata.name},
                "annotations": {**variant.metadata.annotations, SWEEP_VALUES: json.dumps(varying)},
            }
        )
        found.append(Variant(variant.model_copy(update={"metadata": metadata}), varying))
    return found


def values_of(text: str) -> list[str]:
    """``1e-4,3e-4`` as its values, ``0..2`` as ``0``, ``1``, ``2``; a list or a map is one value.

    Raises:
        ConfigurationError: a range runs downwards, or a value comes twice.
    """
    if text[:1] in ("[", "{", "'", '"'):
        return [text]
    found: list[str] = []
    for part in text.split(","):
        ends = _RANGE.fullmatch(part.strip())
        if ends is None:
            found.append(part.strip())
            continue
        first, last = int(ends[1]), int(ends[2])
        if last < first:
            raise ConfigurationError(f"{part.strip()}: write the lower end first, {last}..{first}")
        if last - first >= MOST:
            raise ConfigurationError(f"{part.strip()}: a sweep has at most {MOST} jobs")
        found += [str(value) for value in range(first, last + 1)]
    for value in found:
        if found.count(value) > 1:
            raise ConfigurationError(f"'{value}' comes twice in {text}")
    return found


def paths_of(job: FlorenceJob, path: str) -> list[str]:
    """The full paths that ``path`` means: itself, or that field of every stage that has it.

    Raises:
        ConfigurationError: no stage has the field.
    """
    first = path.partition(".")[0]
    if first in ("model", *(stage.name for stage in job.spec.stages)):
        return [path]
    found = [
        f"{stage.name}.{path}"
        for stage in job.spec.stages
        if {f"{path}=", f"{path}."} & set(setting_paths(stage.kind.settings, path))
    ]
    if not found:
        stages = ", ".join(stage.name for stage in job.spec.stages)
        raise ConfigurationError(f"--set {path}: no field of the stages {stages}, nor of model")
    return found


def results_of(job: FlorenceJob) -> dict[str, float]:
    """What a job's stages measured, by ``stage/result``; what only says how long is left out."""
    stages = job.status.stages if job.status else ()
    return {
        f"{stage.name}/{result}": value
        for stage in stages
        for result, value in stage.metrics.items()
        if result not in _NO_RESULTS
    }


def metric_to_sort_by(jobs: Sequence[FlorenceJob], wanted: str | None) -> str | None:
    """The result that says which job is the best: the one asked for, or the last stage's first.

    Raises:
        ConfigurationError: no job has the result that was asked for; names those there are.
    """
    every = dict.fromkeys(name for job in jobs for name in results_of(job))
    if wanted is not None:
        if wanted not in every:
            there = ", ".join(every) or "none"
            raise ConfigurationError(f"--metric {wanted}: no such result; there: {there}")
        return wanted
    for job in jobs:
        for stage in reversed(job.status.stages if job.status else ()):
            name = next((n for n in stage.metrics if n not in _NO_RESULTS), None)
            if name is not None:
                return f"{stage.name}/{name}"
    return None


def results_table(
    found: Sequence[Variant], jobs: Sequence[FlorenceJob], metric: str | None
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each job, its values, its state and the result, the best first."""
    chosen = metric_to_sort_by(jobs, metric)
    varying = list(found[0].values)
    by_name = {variant.job.metadata.name: variant for variant in found}
    ranked = sorted(
        jobs, key=lambda job: results_of(job).get(chosen or "", float("-inf")), reverse=True
    )
    rows = []
    for job in ranked:
        value = results_of(job).get(chosen or "")
        state = job.status.phase.value if job.status else "Pending"
        values = by_name[job.metadata.name].values
        rows.append(
            [
                job.metadata.name,
                *(values[path] for path in varying),
                state,
                "" if value is None or chosen is None else shown(chosen, value),
            ]
        )
    return ["name", *varying, "state", chosen or "result"], rows


def spread_over_seeds(
    found: Sequence[Variant], jobs: Sequence[FlorenceJob], metric: str | None
) -> str | None:
    """The mean of a result and its sample deviation, where nothing but a seed varies.

    None where something else varies, or fewer than two jobs have the result.
    """
    if any(path.rpartition(".")[2] not in _SEEDS for path in found[0].values):
        return None
    chosen = metric_to_sort_by(jobs, metric)
    values = [results_of(job)[chosen] for job in jobs if chosen and chosen in results_of(job)]
    if chosen is None or len(values) < 2:
        return None
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return f"{chosen} over {len(values)} seeds: {shown(chosen, mean)} ± {shown(chosen, deviation)}"

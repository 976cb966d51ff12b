"""The jobs of a sweep: one for every combination of the values that settings are given."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from florence.errors import ConfigurationError
from florencectl.completing import setting_paths
from florencectl.job_file import changed

if TYPE_CHECKING:
    from florence_operator.api import FlorenceJob

SWEEP_LABEL = "florence.dev/sweep"
MOST = 1_000
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
        labels = {**variant.metadata.labels, SWEEP_LABEL: job.metadata.name}
        metadata = variant.metadata.model_copy(update={"labels": labels})
        varying = {path: value for path, value in values.items() if len(axes[path]) > 1}
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

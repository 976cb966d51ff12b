"""What the columns of a list of jobs say, on a cluster and on one machine."""

from __future__ import annotations

from collections.abc import Iterable

from florence.config import Training
from florence_operator.api.status import StageStatus, State
from florence_operator.api.v1alpha1 import JobSpec


def percent_done(spec: JobSpec, stages: Iterable[StageStatus]) -> str | None:
    """Steps done of all stages that train, in percent.

    A stage that counts in epochs is known once it has told its steps.
    """
    done = total = 0
    for stage in stages:
        config = spec.stage(stage.name).config
        if not isinstance(config, Training):
            continue
        steps = config.planned_steps or (stage.progress.total if stage.progress else 0)
        total += steps
        if stage.state is State.SUCCEEDED:
            done += steps
        elif stage.progress is not None:
            done += min(stage.progress.step, steps)
    return f"{100 * done // total}%" if total else None


def length(seconds: float) -> str:
    """A length of time in its two largest units, such as 1h3m."""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (parts and left) or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
        if len(parts) == 2:
            break
    return "".join(part for i, part in enumerate(parts) if i == 0 or not part.startswith("0"))

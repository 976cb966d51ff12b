"""``describe``: a job's whole story as text. A pure function of the facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from florence_operator.api.status import Attempt, JobStatus, StageStatus, State
from florence_operator.api.times import unix
from florencectl.cluster.jobs import status_of
from florencectl.explain.node_strikes import avoided_told, strikes_of
from florencectl.explain.snapshot import Event, Snapshot
from florencectl.explain.time_spent import columns_and_rows
from florencectl.explain.why import why
from florencectl.run_display import duration, progress_line

_MOST_EVENTS = 20
_MOST_ATTEMPTS = 12
_OF_PODS = ("pod", "node")


def describe(
    facts: Snapshot,
    program: str = "florencectl",
    explain: Callable[[Snapshot, str], str] = why,
) -> str:
    """The story: what was asked for, what happened, what happens next.

    Args:
        explain: says where the job stands and what to do.
    """
    status = status_of(facts.job)
    sections = [
        _heading(facts, status),
        _section("Spec", _spec(facts.job.get("spec") or {})),
        _section("Stages", _stages(facts, status)),
        _section("Attempts", _attempts(facts, status)),
        _section("Strikes against nodes", _strikes(status)),
        _section("Goodput", table(*columns_and_rows(status.stages, facts.now))),
        _section("Last lines of what failed first", _last_lines(status)),
        _section("Results", _results(status)),
        _section("Conditions", _conditions(status, facts.now)),
        _section("Events", _events(facts.events, facts.now)),
        _section("What happens next", [explain(facts, program)]),
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Left-aligned columns as lines; no line at all without rows."""
    body = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if not body:
        return []
    lines = [[column.upper() for column in columns], *body]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _heading(facts: Snapshot, status: JobStatus) -> list[str]:
    metadata = facts.job["metadata"]
    labels = ", ".join(f"{k}={v}" for k, v in (metadata.get("labels") or {}).items())
    fields = {
        "Name": metadata["name"],
        "Namespace": metadata.get("namespace"),
        "Labels": labels,
        "State": status.phase.value,
        "Created": _moment(metadata.get("creationTimestamp"), facts.now),
        "Started": _moment(status.start_time, facts.now),
        "Ended": _moment(status.completion_time, facts.now),
        "GPU-hours": status.summary.gpu_hours if status.start_time else None,
    }
    return [f"{name + ':':<12}{value}" for name, value in fields.items() if value]


def _spec(spec: Mapping[str, Any]) -> list[str]:
    policy, pool = spec.get("runPolicy") or {}, spec.get("nodePool") or {}
    artifacts, tracking = spec.get("artifacts") or {}, spec.get("tracking") or {}
    fields = {
        "Image": spec.get("image"),
        "Model": (spec.get("model") or {}).get("preset"),
        "Artifacts": artifacts.get("uri"),
        "Endpoint": artifacts.get("endpoint"),
        "Credentials": artifacts.get("credentialsSecret"),
        "MLflow": tracking.get("mlflowUri"),
        "Node pool": ", ".join(f"{k}={v}" for k, v in (pool.get("selector") or {}).items()),
        "Queue": policy.get("queue"),
        "Suspend": "yes" if policy.get("suspend") else None,
        "Deadline": policy.get("deadline"),
    }
    return [f"{name + ':':<13}{value}" for name, value in fields.items() if value]


def _stages(facts: Snapshot, status: JobStatus) -> list[str]:
    rows = []
    for spec in (facts.job.get("spec") or {}).get("stages") or ():
        stage = status.stage(spec["name"])
        resources = spec.get("resources") or {}
        gpus = resources.get("gpusPerWorker")
        each = f" x {gpus} GPUs" if gpus else ""
        rows.append(
            [
                stage.name,
                _kind(spec),
                ", ".join(spec.get("dependsOn") or ()) or None,
                f"{resources.get('workers', 1)}{each}",
                stage.state.value,
                _progress(stage),
                stage.message,
            ]
        )
    return table(["name", "kind", "after", "workers", "state", "progress", "why"], rows)


def _kind(spec: Mapping[str, Any]) -> str:
    known = ("name", "dependsOn", "resources")
    return next((field for field in spec if field not in known), "?")


def _progress(stage: StageStatus) -> str | None:
    if stage.progress is None or stage.state is State.SUCCEEDED:
        return None
    return progress_line("", stage.progress).removeprefix(": ")


def _attempts(facts: Snapshot, status: JobStatus) -> list[str]:
    found = [(stage, attempt) for stage in status.stages for attempt in stage.attempts]
    rows = [_attempt(stage, attempt, facts.now) for stage, attempt in found[-_MOST_ATTEMPTS:]]
    columns = [
        "stage",
        "no",
        "ended",
        "pod",
        "node",
        "exit",
        "from step",
        "to step",
        "took",
        "logs",
    ]
    # On one machine there are no pods.
    used = [i for i, name in enumerate(columns) if name not in _OF_PODS or any(r[i] for r in rows)]
    lines = table([columns[i] for i in used], [[row[i] for i in used] for row in rows])
    if len(found) > _MOST_ATTEMPTS:
        lines.append(f"({len(found) - _MOST_ATTEMPTS} earlier ones are in -o yaml)")
    lines += [
        f"({stage.name}: of attempts 1 to {stage.dropped.number} only sums are kept)"
        for stage in status.stages
        if stage.dropped is not None
    ]
    return lines


def _attempt(stage: StageStatus, attempt: Attempt, now: float) -> list[Any]:
    if attempt.cause:
        end = attempt.cause.value
    elif attempt.completion_time:
        end = "Succeeded"
    else:
        end = f"stopping ({attempt.stopping.value})" if attempt.stopping else "at work"
    started = unix(attempt.admission_time or attempt.start_time)
    took = (unix(attempt.completion_time) or now) - started if started else None
    return [
        stage.name,
        attempt.number,
        end,
        attempt.pod,
        attempt.node,
        attempt.exit_code,
        attempt.restored_step,
        attempt.step,
        duration(took) if took is not None else None,
        attempt.logs,
    ]


def _strikes(status: JobStatus) -> list[str]:
    rows = table(["node", "why", "stage", "no", "when"], strikes_of(status.stages))
    return rows + [
        f"{stage.name}: {told}" for stage in status.stages if (told := avoided_told(stage))
    ]


def _last_lines(status: JobStatus) -> list[str]:
    failed = [
        (stage, attempt)
        for stage in status.stages
        if stage.state is not State.SUCCEEDED
        for attempt in stage.attempts
        if attempt.cause and (attempt.last_lines or attempt.message)
    ]
    if not failed:
        return []
    stage, attempt = max(failed, key=lambda pair: pair[1].completion_time or "")
    pod = f", pod {attempt.pod}" if attempt.pod else ""
    said = [f"{stage.name}, attempt {attempt.number}{pod}:"]
    lines = attempt.last_lines or ((attempt.message,) if attempt.message else ())
    return said + [f"  {line.rstrip()}" for line in lines]


def _results(status: JobStatus) -> list[str]:
    rows = [
        [stage.name, name, f"{value:.4g}"]
        for stage in status.stages
        for name, value in stage.metrics.items()
    ]
    models = [f"model of {stage.name}: {stage.model}" for stage in status.stages if stage.model]
    return table(["stage", "result", "value"], rows) + models


def _conditions(status: JobStatus, now: float) -> list[str]:
    found = [("", c) for c in status.conditions]
    found += [(f" of {stage.name}", c) for stage in status.stages for c in stage.conditions]
    rows = [
        [f"{c.type}{of}", c.status, c.reason, _age(unix(c.last_transition_time), now), c.message]
        for of, c in found
    ]
    return table(["type", "status", "reason", "since", "message"], rows)


def _events(events: Sequence[Event], now: float) -> list[str]:
    rows = [
        [
            _age(event.last, now),
            event.kind,
            f"{event.reason}" + (f" (x{event.count})" if event.count > 1 else ""),
            event.about,
            " ".join(event.message.split()),
        ]
        for event in events[-_MOST_EVENTS:]
    ]
    return table(["age", "type", "reason", "object", "message"], rows)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def _moment(timestamp: str | None, now: float) -> str | None:
    return f"{timestamp} ({_age(unix(timestamp), now)} ago)" if timestamp else None


def _age(moment: float | None, now: float) -> str | None:
    return duration(now - moment) if moment else None

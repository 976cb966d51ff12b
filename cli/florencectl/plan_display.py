"""The planner's estimate as tables for people."""

from __future__ import annotations

import sys
from typing import Any

from florence.planner import JobEstimate, MemoryOption, StageEstimate
from florencectl.output import bold, byte_size, count, note, print_table

MEMORY_PARTS = {
    "model_states": "model states",
    "activations": "activations",
    "batch": "batch",
    "features": "features",
    "logits": "logits",
    "overhead": "context, slack",
    "total": "total",
}


def print_estimate(estimate: JobEstimate, *, assumed: bool) -> None:
    """Print the model, the stages, the memory of each, and what would be faster or smaller."""
    _section("Model")
    print_table(*_model_table(estimate))
    _section("Time")
    print_table(*_time_table(estimate))
    _section("Memory per GPU")
    print_table(*_memory_table(estimate))
    for stage in _memory_stages(estimate):
        if stage.capacity is None:
            continue
        _section(f"Memory per GPU by setting: {stage.name}")
        print_table(*_options_table(stage))
        print(_advice(stage))
    if estimate.days is None:
        note("time and limits are estimated for GPUs only")
    elif assumed:
        note(
            "the utilisation is an assumption: measure the samples/s of some steps and give --mfu, "
            "or --days"
        )


def _section(title: str) -> None:
    if title != "Model":
        print()
    print(bold(title, sys.stdout))


def _distinct(estimate: JobEstimate) -> list[StageEstimate]:
    """The first stage of each cost per sample."""
    first: dict[int, StageEstimate] = {}
    for stage in estimate.stages:
        first.setdefault(stage.flops_per_sample.total, stage)
    return list(first.values())


def _memory_stages(estimate: JobEstimate) -> list[StageEstimate]:
    """The first stage of each memory profile."""
    first: dict[float, StageEstimate] = {}
    for stage in estimate.stages:
        first.setdefault(stage.memory_per_gpu.total, stage)
    return list(first.values())


def _model_table(estimate: JobEstimate) -> tuple[list[str], list[list[Any]]]:
    """Parameters and FLOPs of the parts that some stage has."""
    stages = _distinct(estimate)
    counts = [estimate.parameters, *(stage.flops_per_sample for stage in stages)]
    parts = [p for p in ("image", "text", "head") if any(getattr(c, p) for c in counts)]
    several = len(estimate.stages) > 1
    names = ["parameters"] + [
        "training FLOPs per sample" + (f" at {stage.resolution}: {stage.name}" if several else "")
        for stage in stages
    ]
    rows = [
        [name, *(count(getattr(counted, part)) for part in [*parts, "total"])]
        for name, counted in zip(names, counts, strict=True)
    ]
    return ["", *parts, "total"], rows


def _time_table(estimate: JobEstimate) -> tuple[list[str], list[list[Any]]]:
    columns = ["stage", "gpus", "batch", "batch/gpu", "steps", "samples", "mfu"]
    columns += ["samples/s", "samples/s/gpu", "s/step", "days", "gpu-hours"]
    rows = []
    for stage in estimate.stages:
        pace = stage.pace
        times: list[Any] = [None] * 6
        if pace is not None:
            times = [
                f"{100 * pace.mfu:.1f} %",
                f"{pace.samples_per_second:,.0f}",
                f"{pace.samples_per_second_per_gpu:.1f}",
                f"{pace.step_seconds:.3g}",
                f"{pace.days:.2f}",
                f"{pace.gpu_hours:,.0f}",
            ]
        gpus = f"{stage.processes} {stage.gpu or 'CPU'}"
        work = [f"{stage.batch_size:,}", stage.batch_per_gpu, f"{stage.steps:,}"]
        rows.append([stage.name, gpus, *work, count(stage.samples), *times])
    if len(rows) > 1:
        rate, days, hours = estimate.samples_per_second, estimate.days, estimate.gpu_hours
        total = [
            None if rate is None else f"{rate:,.0f}",
            None,
            None,
            None if days is None else f"{days:.2f}",
            None if hours is None else f"{hours:,.0f}",
        ]
        samples = count(sum(stage.samples for stage in estimate.stages))
        rows.append(["all", None, None, None, None, samples, None, *total])
    return columns, rows


def _memory_table(estimate: JobEstimate) -> tuple[list[str], list[list[Any]]]:
    stages = _memory_stages(estimate)
    rows: list[list[Any]] = [
        [label, *(byte_size(getattr(stage.memory_per_gpu, part)) for stage in stages)]
        for part, label in MEMORY_PARTS.items()
    ]
    if any(stage.capacity for stage in stages):
        rows.append(["of", *(byte_size(s.capacity) if s.capacity else None for s in stages)])
        verdicts = {True: "fits", False: "DOES NOT FIT", None: None}
        rows.append(["", *(verdicts[stage.fits] for stage in stages)])
    return ["", *(stage.name for stage in stages)], rows


def _options_table(stage: StageEstimate) -> tuple[list[str], list[list[Any]]]:
    kinds = list(dict.fromkeys(option.activation_checkpointing for option in stage.options))
    rows: list[list[Any]] = []
    for zero in dict.fromkeys(option.zero_stage for option in stage.options):
        cells = [_cell(o) for o in stage.options if o.zero_stage == zero]
        rows.append([f"ZeRO-{zero}", *cells])
    return ["", *(f"checkpointing {kind.value}" for kind in kinds)], rows


def _cell(option: MemoryOption) -> str:
    return byte_size(option.total) + ("" if option.fits is not False else " (too much)")


def _advice(stage: StageEstimate) -> str:
    advice = stage.recommendation
    if advice is None:
        return "Nothing fits: use more or larger GPUs, or a smaller batch."
    chunks = advice.gradient_cache_chunks
    settings = [
        f"zeroStage: {advice.zero_stage}",
        f"activationCheckpointing: {advice.activation_checkpointing.value}",
        f"gradientCacheChunks: {chunks}",
    ]
    return f"Fastest that fits: {', '.join(settings)} ({byte_size(advice.total)})."

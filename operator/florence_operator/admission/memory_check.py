"""Whether training stages fit the GPUs that they ask for, by the planner's formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from florence.config import ActivationCheckpointing, Architecture, Training
from florence.errors import ConfigurationError, SettingError
from florence.planner import (
    Gpu,
    MemoryOption,
    StageRequest,
    estimate_stage,
    gpu_named,
)
from florence_operator.api.v1alpha1 import FlorenceJob, Stage

PRODUCT_LABEL = "nvidia.com/gpu.product"

# The planner goes through every block and every way to split a batch: within these, several times
# what anybody trains, a stage takes it some hundredths of a second.
_MOST_BLOCKS = 200
_MOST_SAMPLES_PER_GPU = 32_768


@dataclass(frozen=True, slots=True)
class Findings:
    """What cannot work, and what could not be told."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    complete: bool = True
    """Whether there was time for every stage."""


def memory_findings(job: FlorenceJob, late: Callable[[], bool] = lambda: False) -> Findings:
    """Stages whose batch does not divide over their processes, or whose memory cannot suffice.

    Args:
        late: whether there is no time left to plan one more stage.
    """
    problems, warnings = [], []
    complete = True
    architecture = job.spec.model.architecture()
    gpu, unknown = _gpu(job)
    for index, stage in enumerate(job.spec.stages):
        field = f"spec.stages[{index}].{stage.kind.name}"
        try:
            stage.config.check_processes(stage.resources.processes)
        except SettingError as error:
            problems.append(f"{field}.{error.field}: {error.value} {error.found}")
            continue
        request = _request(stage, gpu)
        if request is None or not stage.resources.gpus_per_worker:
            continue
        if gpu is None:
            warnings.append(f"{field}: its memory is not checked: {unknown}")
        elif not _quick(architecture, request):
            warnings.append(f"{field}: its memory is not checked: the model or batch is too large")
        elif late():
            warnings.append(
                f"{field}: its memory is not checked: the stages before it took too long"
            )
            complete = False
        elif problem := _too_large(architecture, request, gpu):
            problems.append(f"{field}: {problem}")
    return Findings(tuple(problems), tuple(warnings), complete)


def _gpu(job: FlorenceJob) -> tuple[Gpu | None, str]:
    product = job.spec.node_pool.selector.get(PRODUCT_LABEL)
    if product is None:
        return None, f"spec.nodePool.selector does not name the GPU in '{PRODUCT_LABEL}'"
    try:
        return gpu_named(product), ""
    except ConfigurationError as error:
        return None, str(error)


def _request(stage: Stage, gpu: Gpu | None) -> StageRequest | None:
    """What the planner is asked; ``None`` where it has nothing to plan.

    Memory does not depend on the number of steps, so a stage of epochs is planned as one step.
    """
    config, cost = stage.config, stage.kind.cost
    if cost is None or not isinstance(config, Training) or not config.trains_in_steps:
        return None
    return StageRequest(
        name=stage.name,
        settings=config,
        cost=cost,
        processes=stage.resources.processes,
        gpu=gpu,
        samples=1,
    )


def _quick(architecture: Architecture, request: StageRequest) -> bool:
    blocks = sum(architecture.image.depths) + architecture.text.layers
    samples = request.settings.samples_per_process(request.processes)
    return blocks <= _MOST_BLOCKS and samples <= _MOST_SAMPLES_PER_GPU


def _too_large(architecture: Architecture, request: StageRequest, gpu: Gpu) -> str | None:
    try:
        estimate = estimate_stage(architecture, request)
    except (ConfigurationError, ValueError) as error:
        return str(error)
    if estimate.fits:
        return None
    needs = f"needs {_gigabytes(estimate.memory_per_gpu.total)} on each {gpu.name}, which has "
    needs += _gigabytes(gpu.memory)
    better = estimate.recommendation
    if better is None:
        return f"{needs}: use more or larger GPUs, or a smaller batchSize, resolution or model"
    return f"{needs}: {_advice(better)} would need {_gigabytes(better.total)}"


def _advice(option: MemoryOption) -> str:
    advice = [f"zeroStage: {option.zero_stage}"]
    if option.activation_checkpointing is not ActivationCheckpointing.NONE:
        advice.append(f"activationCheckpointing: {option.activation_checkpointing.value}")
    if option.gradient_cache_chunks > 1:
        advice.append(f"gradientCacheChunks: {option.gradient_cache_chunks}")
    return ", ".join(advice)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"

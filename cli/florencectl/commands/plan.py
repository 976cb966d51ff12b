"""``florencectl plan``: memory, speed and days of a training job, before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from florence.errors import ConfigurationError, FlorenceError
from florencectl.completing import presets
from florencectl.output import DocumentFormat, print_document

if TYPE_CHECKING:
    from florence.config import Architecture, Training
    from florence.config.storage import S3Settings
    from florence.planner import Gpu, StageRequest

PRODUCT_LABEL = "nvidia.com/gpu.product"
MODEL, SETTINGS, HARDWARE = "Model and stage", "Settings of the stage", "Hardware"


def plan(
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="FlorenceJob; or describe one stage below.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Model, such as coswin-h.", autocompletion=presets)
    ] = "coswin-t",
    resolution: Annotated[int, typer.Option(min=8, help="Side of the images in pixels.")] = 224,
    window: Annotated[
        int | None, typer.Option(min=1, help="Side of the attention windows; default: the model's.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per step on all GPUs.")] = 24_576,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 1_000_000,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "bf16",
    zero_stage: Annotated[int, typer.Option(min=0, max=3, help="What DeepSpeed shards.")] = 1,
    activation_checkpointing: Annotated[
        str, typer.Option("--checkpointing", help="none, selective or full.")
    ] = "none",
    gradient_cache_chunks: Annotated[
        int, typer.Option("--chunks", min=1, help="Gradient-cache chunks of a GPU's batch.")
    ] = 1,
    gpus: Annotated[int, typer.Option(min=1, help="How many GPUs.")] = 8,
    gpu: Annotated[
        str | None,
        typer.Option(help="Kind of GPU, such as A100-40GB; default: the job's, or that."),
    ] = None,
    mfu: Annotated[
        float | None, typer.Option(help="Fraction of the peak that steps reach; assumed: 0.4.")
    ] = None,
    days: Annotated[
        float | None, typer.Option(help="Days it takes; the fraction of the peak follows.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Samples of the data, for stages of epochs; default: as their index says."
        ),
    ] = None,
    output: Annotated[
        DocumentFormat, typer.Option("-o", "--output", help="table, json or yaml.")
    ] = DocumentFormat.TABLE,
) -> None:
    """Memory, speed and days of a training job, before it runs.

    Without a job, one stage is described by options; they default to the paper's first stage.
    """
    from florence.config import architecture_of
    from florence.planner import DEFAULT_MFU, estimate_job
    from florencectl.plan_display import print_estimate

    check_fractions(mfu, days)
    if file is not None:
        architecture, requests = requests_of_job(file, gpu, samples)
    else:
        architecture = architecture_of(preset)
        stage = {
            "data": "unused",
            "batchSize": batch_size,
            "steps": steps,
            "resolution": resolution,
            "window": window,
            "precision": precision,
            "zeroStage": zero_stage,
            "activationCheckpointing": activation_checkpointing,
            "gradientCacheChunks": gradient_cache_chunks,
        }
        requests = [request_of_options(stage, gpus, gpu or "A100-40GB")]
    estimate = estimate_job(architecture, requests, mfu=mfu or DEFAULT_MFU, days=days)
    if output is DocumentFormat.TABLE:
        print_estimate(estimate, assumed=mfu is None and days is None)
    else:
        print_document(estimate.wire(), output)


def check_fractions(mfu: float | None, days: float | None) -> None:
    """Refuse a utilisation outside (0, 1], days that are not positive, and both at once."""
    if mfu is not None and days is not None:
        raise ConfigurationError("--mfu and --days exclude each other: give one of them")
    if mfu is not None and not 0 < mfu <= 1:
        raise ConfigurationError(f"--mfu={mfu:g} is no fraction of the peak: use 0.4 for 40 %")
    if days is not None and not days > 0:
        raise ConfigurationError(f"--days={days:g} must be greater than 0")


def requests_of_job(
    file: Path, gpu: str | None, samples: int | None
) -> tuple[Architecture, list[StageRequest]]:
    """The model and the training stages of a FlorenceJob; ``gpu`` goes before its node pool.

    Args:
        samples: of every data set; default: what its index says, where it can be read.
    """
    from florence.config import Training
    from florence.planner import StageRequest, gpu_named
    from florencectl.job_file import read_job

    job = read_job(file)
    product = gpu or job.spec.node_pool.selector.get(PRODUCT_LABEL)
    requests = []
    for stage in job.spec.in_order():
        config, cost = stage.config, stage.kind.cost
        if cost is None or not isinstance(config, Training) or not config.trains_in_steps:
            continue
        kind: Gpu | None = None
        if stage.resources.gpus_per_worker:
            if product is None:
                raise ConfigurationError(
                    f"{file}: stage '{stage.name}' asks for GPUs of an unknown kind: give --gpu, "
                    f"or spec.nodePool.selector['{PRODUCT_LABEL}']"
                )
            kind = gpu_named(product)
        requests.append(
            StageRequest(
                name=stage.name,
                settings=config,
                cost=cost,
                processes=stage.resources.processes,
                gpu=kind,
                samples=samples or samples_of(config, job.spec.artifacts.s3),
            )
        )
    if not requests:
        raise ConfigurationError(f"{file}: no stage trains a model: there is nothing to plan")
    return job.spec.model.architecture(), requests


def samples_of(config: Training, s3: S3Settings) -> int | None:
    """The samples of a stage's data, where the settings need them and an index can be read."""
    if config.steps is not None:
        return None
    try:
        from florence.data.opening import describe_data

        return describe_data(config.data, s3).samples
    except (FlorenceError, ImportError):
        return None


def request_of_options(stage: dict[str, Any], gpus: int, gpu: str) -> StageRequest:
    """One stage from its settings on the wire, on GPUs of a kind."""
    from florence.kinds import kind_named
    from florence.planner import StageRequest, gpu_named

    kind = kind_named("pretrain")
    assert kind.cost is not None
    return StageRequest(
        name=kind.name,
        settings=kind.settings.model_validate(stage),  # type: ignore[arg-type]
        cost=kind.cost,
        processes=gpus,
        gpu=gpu_named(gpu),
    )

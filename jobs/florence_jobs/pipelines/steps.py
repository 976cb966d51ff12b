"""The light steps of pipelines as plain functions: data, plans, gates, the registry, messages."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from florence.config import Training
from florence.config.base import first_problem
from florence.config.storage import S3Settings
from florence.errors import ConfigurationError, DataError, TransientError
from florence_jobs.pipelines.requests import requested
from florence_operator.api import FlorenceJob, to_yaml


@dataclass(frozen=True, slots=True)
class DataDescription:
    """Data that was found: where, how much, and what tells it from other data."""

    uri: str
    samples: int
    fingerprint: str


def import_data(
    kind: str, sources: list[str], out: str, settings: Mapping[str, Any], endpoint: str = ""
) -> DataDescription:
    """Write data of a known format as shards, once.

    Args:
        kind: the format, as of ``florencectl data import``.
        settings: of that format, by their names in a FlorenceJob.

    Raises:
        ConfigurationError: there is no such format, or a setting is wrong.
        DataError: the sources are unusable.
    """
    from florence.data.importing.importer import import_data as imported
    from florence.data.importing.registry import FORMATS

    if kind not in FORMATS:
        raise ConfigurationError(f"format: '{kind}' is none of {', '.join(FORMATS)}")
    format_ = FORMATS[kind]
    try:
        read = format_.settings.model_validate(dict(settings))
    except ValidationError as error:
        raise ConfigurationError(f"settings: {first_problem(error)}") from None
    done = imported(format_, sources, out, read, _s3(endpoint), processes=os.cpu_count() or 1)
    return index_data(done.uri, endpoint)


def curate_data(
    uri: str, out: str, settings: Mapping[str, Any], endpoint: str = ""
) -> DataDescription:
    """Write the samples of ``uri`` that pass every filter to ``out``.

    Raises:
        ConfigurationError: a setting is wrong.
        DataError: the data is unusable.
    """
    from florence.curation.curate import curate
    from florence.curation.settings import Curation

    try:
        read = Curation.model_validate(dict(settings))
    except ValidationError as error:
        raise ConfigurationError(f"settings: {first_problem(error)}") from None
    report = curate(uri, out, read, _s3(endpoint), processes=os.cpu_count() or 1)
    print(f"{report.kept} of {report.samples} samples kept", flush=True)
    return index_data(out, endpoint)


def index_data(uri: str, endpoint: str = "") -> DataDescription:
    """Write a byte index beside every shard, and say what the data holds.

    Raises:
        DataError: there are no shards, or they cannot be used.
    """
    from florence.data.builtin import resolve
    from florence.data.indexing import index_data as indexed
    from florence.data.locations import locate
    from florence.data.manifest import NAME
    from florence.storage import open_storage

    place = resolve(uri)
    found = indexed(place, _s3(endpoint), workers=os.cpu_count() or 1)
    if found.problems:
        first = found.problems[0]
        raise DataError(
            f"{uri}: {found.statistics.problems} members cannot be used, such as {first.member} "
            f"of {first.shard}: {first.reason}"
        )
    root, only = locate(place)
    manifest = b"" if only else open_storage(root, _s3(endpoint)).read(NAME)
    counts = found.statistics
    return DataDescription(
        uri, counts.images + counts.clips, hashlib.sha256(manifest).hexdigest()[:16]
    )


def start_from(model: str, jobs: Sequence[str]) -> list[str]:
    """FlorenceJobs in YAML, whose stages that depend on no other start from a model.

    Raises:
        ConfigurationError: a document is no FlorenceJob.
    """
    return [to_yaml(requested(job, initial_model=model).manifest()) for job in jobs]


def plan_job(job: FlorenceJob) -> str:
    """What a job's training stages need, as Markdown.

    Raises:
        ConfigurationError: a stage does not fit into its GPUs.
    """
    from florence.planner import StageRequest, estimate_job, gpu_named

    product = job.spec.node_pool.selector.get("nvidia.com/gpu.product")
    requests = []
    for stage in job.spec.in_order():
        config, cost = stage.config, stage.kind.cost
        if cost is None or not isinstance(config, Training) or not config.trains_in_steps:
            continue
        gpus = stage.resources.gpus_per_worker
        requests.append(
            StageRequest(
                name=stage.name,
                settings=config,
                cost=cost,
                processes=stage.resources.processes,
                gpu=gpu_named(product) if gpus and product else None,
                samples=_samples_of(config, job.spec.artifacts.s3),
            )
        )
    if not requests:
        return "No stage of this job trains a model.\n"
    estimate = estimate_job(job.spec.model.architecture(), requests)
    lines = ["| stage | memory per GPU | fits |", "|---|---|---|"]
    unfit = []
    for each in estimate.stages:
        needed = each.memory_per_gpu.total / 1e9
        fits = each.fits
        lines.append(f"| {each.name} | {needed:.1f} GB | {'-' if fits is None else fits} |")
        if fits is False:
            unfit.append(f"stage {each.name} needs {needed:.1f} GB a GPU, which do not fit")
    if unfit:
        raise ConfigurationError(
            f"{'; '.join(unfit)}: 'florencectl plan -f JOB' says what would fit"
        )
    return "\n".join(lines) + "\n"


def _samples_of(config: Training, s3: S3Settings) -> int | None:
    """How many samples a stage's data has, where its length depends on it."""
    from florence.data.opening import describe_data

    return None if config.steps is not None else describe_data(config.data, s3).samples


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a gate says of a model: the version it is about, and a line per comparison."""

    passed: bool
    version: str
    lines: tuple[str, ...]


def compare_models(
    model: str, gate: str, *, alias: str = "champion", store: str = ""
) -> Comparison:
    """Hold a model against its gate and the champion; nothing is moved.

    Args:
        model: ``models:/…``, or the URI of the files of a registered model.
        gate: see :mod:`florence_jobs.registry.gates`; empty always opens.

    Raises:
        DataError: the model is not registered.
        ConfigurationError: the gate is none.
    """
    return _promotion(model, gate, alias, store, dry_run=True)


def register_model(model: str, *, alias: str = "champion", gate: str = "", store: str = "") -> str:
    """Let an alias stand for a model's version; the version's reference.

    Raises:
        DataError: the model is not registered.
        ConfigurationError: the gate does not open (any more).
    """
    done = _promotion(model, gate, alias, store, dry_run=False)
    if not done.passed:
        raise ConfigurationError(f"{done.version} stays what it is: {'; '.join(done.lines)}")
    return done.version


def _promotion(model: str, gate: str, alias: str, store: str, *, dry_run: bool) -> Comparison:
    from florence_jobs.registry.promotion import promote
    from florence_jobs.registry.references import is_reference, parse_reference
    from florence_jobs.registry.store import ModelRegistry, default_store

    registry = ModelRegistry(store or default_store())
    if is_reference(model):
        reference = parse_reference(model)
    else:
        version = registry.with_uri(model)
        if version is None:
            raise DataError(
                f"{model}: no registered model is there: give the MLflow server of its job"
            )
        reference = parse_reference(version.uri)
    done = promote(registry, reference, alias=alias, gate=gate or None, dry_run=dry_run)
    return Comparison(done.verdict.passed, done.candidate.uri, done.verdict.lines)


def notify(url: str, message: str, *, timeout: float = 30.0) -> None:
    """Post ``{"text": message}``, which Slack, Teams and Mattermost take; without a URL, print.

    Raises:
        TransientError: nobody takes it.
    """
    print(message, flush=True)
    if not url:
        return
    if not url.startswith(("https://", "http://")):
        raise ConfigurationError("url: give an http(s):// address to post to")
    request = urllib.request.Request(
        url,
        data=json.dumps({"text": message}).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    try:
        urllib.request.urlopen(request, timeout=timeout).close()
    except (urllib.error.URLError, OSError) as error:
        # The address may hold a secret: it is not told.
        raise TransientError(f"the message was not taken ({type(error).__name__})") from None


def _s3(endpoint: str) -> S3Settings:
    return S3Settings(endpoint=endpoint or None)

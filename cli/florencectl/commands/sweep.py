"""``florencectl sweep``: one job for every combination of the values of some settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from florence.errors import ConfigurationError
from florencectl.cluster.connection import Place, is_configured
from florencectl.completing import assignments_to_job
from florencectl.job_file import read_job
from florencectl.options import Context, Kubeconfig, Namespace
from florencectl.output import DocumentFormat, note, print_document, print_table
from florencectl.sweeping import Variant, results_table, spread_over_seeds, variants

if TYPE_CHECKING:
    from florence_operator.api import FlorenceJob


def sweep(
    file: Annotated[Path, typer.Option("-f", "--file", help="YAML file with a FlorenceJob.")],
    assignments: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="FIELD=VALUE,VALUE",
            autocompletion=assignments_to_job,
            help="Values of a setting: 1e-4,3e-4 or 0..2. The field is of one stage "
            "(mixed.optimizer.lr), of every stage that has it (seed), or of the model; may be "
            "repeated.",
        ),
    ],
    metric: Annotated[
        str | None,
        typer.Option(help="Result to sort by, as STAGE/RESULT; default: the first of the last."),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Run one after another on this machine.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="Local ranks at most.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="On a cluster: until all have ended, then the results.")
    ] = False,
    dry_run: Annotated[
        str | None,
        typer.Option("--dry-run", metavar="client", help="Run nothing; print the FlorenceJobs."),
    ] = None,
    output: Annotated[
        DocumentFormat, typer.Option("-o", "--output", help="Format of the results.")
    ] = DocumentFormat.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Run a job with every combination of the values of some settings.

    Each combination is a job of its own, NAME-0, NAME-1, …: on this machine one after another, on
    a cluster all at once (or as their queue lets them). MLflow shows them in one parent run. The
    same command again goes on with those that have not succeeded, and shows the results. Where only
    seeds vary (seed=0..2, shotsSeed=3,30,300) their mean and standard deviation are shown too.
    """
    found = variants(read_job(file), assignments)
    if dry_run not in (None, "client"):
        raise ConfigurationError(f"--dry-run={dry_run}: use client, or no value")
    if dry_run:
        from florence_operator.api import to_yaml

        print("---\n".join(to_yaml(variant.job.manifest()) for variant in found), end="")
        return
    place = Place(kubeconfig, context, namespace)
    if local:
        if place != Place(namespace=namespace):
            raise ConfigurationError("--local excludes --context and --kubeconfig")
        code, jobs = _run_here(found, namespace, processes)
    else:
        if not is_configured(place):
            raise ConfigurationError("no cluster configured: add --local to run on this machine")
        from florencectl.cluster.sweeps import create_and_wait

        code, jobs = create_and_wait(place, [variant.job for variant in found], wait=wait)
        if not wait:
            return
    _show(found, jobs, metric, output)
    raise typer.Exit(code)


def _run_here(
    found: list[Variant], namespace: str | None, processes: int | None
) -> tuple[int, list[FlorenceJob]]:
    """The code of the first job that failed, and all that were run; a stopped one ends it."""
    from florencectl.local_run import run_variant

    first, jobs = 0, []
    for number, variant in enumerate(found, start=1):
        values = ", ".join(f"{path}={value}" for path, value in variant.values.items())
        note(f"{variant.job.metadata.name} ({number} of {len(found)}): {values}")
        metadata = variant.job.metadata.model_copy(update={"namespace": namespace or "default"})
        code, job = run_variant(variant.job.model_copy(update={"metadata": metadata}), processes)
        jobs.append(job)
        first = first or code
        if code >= 128:  # whoever stops one wants no other to begin
            break
    return first, jobs


def _show(
    found: list[Variant], jobs: list[FlorenceJob], metric: str | None, output: DocumentFormat
) -> None:
    if output is not DocumentFormat.TABLE:
        print_document([job.wire(defaults=False) for job in jobs], output)
        return
    header, rows = results_table(found, jobs, metric)
    print_table(header, rows)
    name, *_, value = rows[0]
    spread = spread_over_seeds(found, jobs, metric)
    if spread is not None:
        note(f"\n{spread}")
    elif value:
        note(f"\nbest: {name}, {header[-1]} {value}")

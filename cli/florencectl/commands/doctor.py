"""``florencectl doctor``: is a cluster fit for jobs, and for one job in particular?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from florence.errors import ConfigurationError
from florencectl.cluster.connection import Place, is_configured, on_cluster
from florencectl.options import Context, Kubeconfig, Namespace
from florencectl.output import DocumentFormat, note, print_document, print_table


def doctor(
    file: Annotated[
        Path | None,
        typer.Option(
            "-f",
            "--file",
            help="A FlorenceJob: its nodes, queue, Secrets, storage and MLflow are tried as well, "
            "the last two from a short-lived pod.",
        ),
    ] = None,
    timeout: Annotated[
        str, typer.Option(help="How long that pod may take, its image's pull included.")
    ] = "3m",
    output: Annotated[
        DocumentFormat, typer.Option("-o", "--output", help="table, json or yaml.")
    ] = DocumentFormat.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Check whether a cluster is fit for jobs; exit code 1 when something fails."""
    from florence_operator.api.duration import seconds
    from florencectl.doctor.examination import examine
    from florencectl.job_file import read_job
    from florencectl.levels import Level

    try:
        limit = float(seconds(timeout))
    except ValueError as error:
        raise ConfigurationError(f"--timeout: {error}") from None
    place = Place(kubeconfig, context, namespace)
    if not is_configured(place):
        raise ConfigurationError(
            "no cluster configured (no KUBECONFIG, no ~/.kube/config): name one with --kubeconfig"
        )
    job = read_job(file) if file else None
    if job and job.metadata.namespace and not namespace:
        place = Place(kubeconfig, context, job.metadata.namespace)
    found = on_cluster(place, lambda client, where: examine(client, where, job, limit))
    if output is DocumentFormat.TABLE:
        print_table(
            ["check", "result", "found"],
            [[check.name, check.level.value, check.message] for check in found],
        )
        remedies = [f"  {check.name}: {check.remedy}" for check in found if check.remedy]
        if remedies:
            print("\nWhat to do:", *remedies, sep="\n")
        if job is None:
            note("storage, MLflow and Secrets: 'doctor -f JOB.yaml' tries those of a job")
    else:
        print_document(
            [
                {
                    "check": check.name,
                    "result": check.level.value,
                    "found": check.message,
                    "remedy": check.remedy,
                }
                for check in found
            ],
            output,
        )
    if any(check.level is Level.FAIL for check in found):
        raise typer.Exit(1)

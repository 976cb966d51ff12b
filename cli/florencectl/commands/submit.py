"""``florencectl submit``: run a FlorenceJob from a file, or from flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from florence.config import Pretrain
from florence.errors import ConfigurationError
from florencectl.flags import assign, merged, with_flags
from florencectl.job_file import job_of, read_job
from florencectl.output import DocumentFormat

if TYPE_CHECKING:
    from florence_operator.api import FlorenceJob

app = typer.Typer(
    help="Run a job on this machine: from a file (-f), or from flags (submit pretrain …).",
    invoke_without_command=True,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

Local = Annotated[bool, typer.Option("--local", help="Run on this machine, without a cluster.")]
Again = Annotated[
    bool, typer.Option("--again", help="Start over: delete what an earlier run of the job left.")
]
Processes = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="Ranks at most; default: the GPUs, or else the cores."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the FlorenceJob and stop.")]
Output = Annotated[DocumentFormat, typer.Option("-o", "--output", help="Format of the results.")]


@app.callback()
def submit(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="YAML file with a FlorenceJob.")
    ] = None,
    local: Local = False,
    again: Again = False,
    processes: Processes = None,
    dry_run: DryRun = False,
    output: Output = DocumentFormat.TABLE,
) -> None:
    """Run a job: from a file (-f), or from flags (submit pretrain …)."""
    if context.invoked_subcommand is not None:
        return
    if file is None:
        raise ConfigurationError("give a file with -f, or a stage: florencectl submit pretrain …")
    _go(read_job(file), local, again, processes, dry_run, output)


def pretrain(
    name: Annotated[str, typer.Option("--name", help="Name of the job.")] = "pretrain",
    preset: Annotated[str, typer.Option("--preset", help="Model preset.")] = "coswin-t",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Any other field of the stage, such as optimizer.lr=3e-4, or of the model, "
            "such as model.image.window=8; may be repeated.",
        ),
    ] = None,
    artifacts: Annotated[
        str | None, typer.Option("--artifacts", help="Folder or s3:// URI of the artifacts.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="URL of the S3 service, such as MinIO's.")
    ] = None,
    local: Local = False,
    again: Again = False,
    processes: Processes = None,
    dry_run: DryRun = False,
    output: Output = DocumentFormat.TABLE,
    **fields: Any,
) -> None:
    """Pretrain a two-tower model on image-text pairs."""
    given = {key: value for key, value in fields.items() if value is not None}
    settings = assign(assignments or [])
    model = merged({"preset": preset}, settings.pop("model", {}))
    stored = {key: value for key, value in (("uri", artifacts), ("endpoint", endpoint)) if value}
    document = {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": name},
        "spec": {
            "model": model,
            **({"artifacts": stored} if stored else {}),
            "stages": [{"name": "pretrain", "pretrain": merged(given, settings)}],
        },
    }
    _go(job_of(document), local, again, processes, dry_run, output)


app.command("pretrain")(with_flags(pretrain, Pretrain))


def _go(
    job: FlorenceJob,
    local: bool,
    again: bool,
    processes: int | None,
    dry_run: bool,
    output: DocumentFormat,
) -> None:
    if dry_run:
        from florence_operator.api import to_yaml

        print(to_yaml(job.manifest()), end="")
        return
    if not local:
        raise ConfigurationError(
            "this version runs jobs on this machine only: add --local (--dry-run prints the job)"
        )
    from florencectl.local_run import run_local

    raise typer.Exit(run_local(job, again=again, processes=processes, output=output))

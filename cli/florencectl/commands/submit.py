"""``florencectl submit``: run a FlorenceJob from a file, or from flags."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic.alias_generators import to_camel

from florence.errors import ConfigurationError
from florence.kinds import KINDS
from florence.tasks.kind import Kind
from florencectl.choosing import refuse_on_cluster
from florencectl.cluster.connection import Place, is_configured
from florencectl.completing import (
    assignments_to_job,
    assignments_to_stage,
    models,
    presets,
)
from florencectl.flags import assign, flags_of, merged, with_flags
from florencectl.job_file import InvalidJobError, changed, job_of, read_job
from florencectl.options import Context, Detach, Kubeconfig, Namespace, Processes
from florencectl.output import DocumentFormat, Format, print_document
from florencectl.program import program_to_type

if TYPE_CHECKING:
    from florence_operator.api import FlorenceJob

app = typer.Typer(
    help="Run a job on a cluster, or with --local on this machine: from a file (-f), or from "
    "flags (submit KIND …).",
    invoke_without_command=True,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

Local = Annotated[bool, typer.Option("--local", help="Run on this machine, without a cluster.")]
Again = Annotated[
    bool,
    typer.Option("--again", help="Start over: delete what an earlier local run of the job left."),
]
DryRun = Annotated[
    str | None,
    typer.Option(
        "--dry-run",
        metavar="client|server",
        help="Create nothing: 'client' (or no value) prints the FlorenceJob, 'server' has the "
        "cluster check it.",
    ),
]
Extend = Annotated[
    bool,
    typer.Option(
        "--extend",
        help="Train finished stages of a local job longer that have more steps now: each goes "
        "on from its last checkpoint, and what started from it runs again.",
    ),
]
Wait = Annotated[
    bool,
    typer.Option("--wait", "--follow", help="Show stages and progress until the job ends."),
]
Output = Annotated[Format, typer.Option("-o", "--output", help="Format of the results.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How the user wants a job to be run."""

    place: Place
    local: bool
    again: bool
    processes: int | None
    detach: bool
    extend: bool
    dry_run: str | None
    wait: bool
    output: Format


@app.callback()
def submit(
    call: typer.Context,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="YAML file with a FlorenceJob.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="STAGE.FIELD=VALUE",
            autocompletion=assignments_to_job,
            help="Change a field of a stage of the file, such as mixed.steps=100, or of the "
            "model, such as model.preset=coswin-t, or the job's name; may be repeated.",
        ),
    ] = None,
    local: Local = False,
    again: Again = False,
    processes: Processes = None,
    detach: Detach = False,
    extend: Extend = False,
    dry_run: DryRun = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Run a job: from a file (-f), or from flags (submit KIND …)."""
    if call.invoked_subcommand is not None:
        _refuse_options_before(call, file)
        return
    if file is None:
        raise ConfigurationError(
            "give a file with -f, or a kind of stage: florencectl submit pretrain …"
        )
    how = How(
        place=Place(kubeconfig, context, namespace),
        local=local,
        again=again,
        processes=processes,
        detach=detach,
        extend=extend,
        dry_run=dry_run,
        wait=wait,
        output=output,
    )
    job = read_job(file)
    _go(changed(job, assignments) if assignments else job, how)


def _refuse_options_before(call: typer.Context, file: Path | None) -> None:
    """Refuse options before the kind: they are this command's, which then does nothing."""
    kind = call.invoked_subcommand
    if file is not None:
        raise ConfigurationError(
            f"-f {file} and {kind}: a job is of a file or of flags: leave out one of them; "
            "--set STAGE.FIELD=VALUE changes a field of the file's"
        )
    for parameter in call.command.params:
        source = call.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            option = max(parameter.opts, key=len)
            raise ConfigurationError(
                f"{option} stands before {kind}: write it behind, as in "
                f"{program_to_type()} submit {kind} {option} …"
            )


def _submit_stage(
    kind: Kind,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the job; default: the kind's.")
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", help="Model preset.", autocompletion=presets)
    ] = "coswin-t",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            autocompletion=assignments_to_stage,
            help="Any other field of the stage, such as optimizer.lr=3e-4, or of the model, "
            "such as model.image.window=8; may be repeated.",
        ),
    ] = None,
    initial_model: Annotated[
        str | None,
        typer.Option(
            "--from",
            "--model",
            metavar="MODEL",
            autocompletion=models,
            help="Folder or s3:// URI of a model to start from, or to measure.",
        ),
    ] = None,
    artifacts: Annotated[
        str | None, typer.Option("--artifacts", help="Folder or s3:// URI of the artifacts.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="URL of the S3 service, such as MinIO's.")
    ] = None,
    credentials_secret: Annotated[
        str | None,
        typer.Option(help="Secret with the credentials of the S3 service, on a cluster."),
    ] = None,
    mlflow: Annotated[str | None, typer.Option(help="URI of the MLflow server.")] = None,
    image: Annotated[str | None, typer.Option(help="Image of the pods, on a cluster.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Pods.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of each pod.")] = None,
    cpu: Annotated[str | None, typer.Option(help="CPUs of each pod, such as 8.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of each pod, such as 64Gi.")] = None,
    queue: Annotated[str | None, typer.Option(help="Kueue LocalQueue of the job.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="PyTorchJob, TrainJob, or auto: what the cluster has.")
    ] = None,
    local: Local = False,
    again: Again = False,
    processes: Processes = None,
    detach: Detach = False,
    extend: Extend = False,
    dry_run: DryRun = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    **fields: Any,
) -> None:
    """Run a stage of one kind as a job."""
    settings = assign(assignments or [])
    stored = {"uri": artifacts, "endpoint": endpoint, "credentialsSecret": credentials_secret}
    resources = {"workers": workers, "gpusPerWorker": gpus, "cpu": cpu, "memory": memory}
    model = merged({"preset": preset}, settings.pop("model", {}))
    stage = {
        "name": stage_name(kind),
        "initialModel": initial_model,
        "resources": _given(resources),
    }
    spec = {
        "image": image,
        "model": model,
        "artifacts": _given(stored),
        "tracking": _given({"mlflowUri": mlflow}),
        "stages": [{**_given(stage), kind.name: merged(_given(fields), settings)}],
        "runPolicy": _given({"queue": queue, "backend": backend}),
    }
    document = {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": name or stage_name(kind)},
        "spec": {key: value for key, value in spec.items() if value},
    }
    how = How(
        place=Place(kubeconfig, context, namespace),
        local=local,
        again=again,
        processes=processes,
        detach=detach,
        extend=extend,
        dry_run=dry_run,
        wait=wait,
        output=output,
    )
    try:
        job = job_of(document)
    except InvalidJobError as error:
        raise InvalidJobError([_with_flag(line, kind) for line in error.findings]) from None
    _go(job, how)


def _with_flag(finding: str, kind: Kind) -> str:
    """A finding about a field that has to be given, with the flag that gives it."""
    path = f"spec.stages[0].{kind.name}"
    for flag in flags_of(kind.settings):
        if finding == f"{path}.{to_camel(flag.name)}: is required":
            return f"{finding}: give --{flag.name.replace('_', '-')}"
    if finding == f"{path}: give exactly one of steps and epochs":
        return f"{finding}: --steps or --epochs"
    if finding.startswith("spec.stages[0].dependsOn: ") and finding.endswith("initialModel"):
        return "--from: a stage of this kind needs a model: name its folder or URI"
    return finding


def stage_name(kind: Kind) -> str:
    """The name of a kind's stage where nobody gave one."""
    return kind.name.lower()


for _kind in KINDS.values():
    app.command(_kind.name)(
        with_flags(
            partial(_submit_stage, _kind),
            _kind.settings,
            name=_kind.name,
            summary=f"{_kind.help[0].upper()}{_kind.help[1:]}.",
        )
    )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """What the user gave: without what was left out, and groups of which all was."""
    return {key: value for key, value in values.items() if value is not None and value != {}}


def _go(job: FlorenceJob, how: How) -> None:
    if how.dry_run not in (None, "client", "server"):
        raise ConfigurationError(f"--dry-run={how.dry_run}: use client or server")
    if how.dry_run == "client":
        _print_job(job, how)
        return
    if how.local:
        _run_here(job, how)
    refuse_on_cluster(
        {
            "--again": how.again,
            "--processes": how.processes,
            "--detach": how.detach,
            "--extend": how.extend,
        }
    )
    if not is_configured(how.place):
        raise ConfigurationError(
            "no cluster configured (no KUBECONFIG, no ~/.kube/config): add --local to run on "
            "this machine, or name a cluster with --kubeconfig (--dry-run prints the job)"
        )
    from florencectl.checking_data import warn_of_data
    from florencectl.cluster.submission import submit_job
    from florencectl.preflight import check_uris

    check_uris(job)
    warn_of_data(job)
    dry = how.dry_run == "server"
    raise typer.Exit(submit_job(how.place, job, how.output, server_dry_run=dry, wait=how.wait))


def _print_job(job: FlorenceJob, how: How) -> None:
    document = job.manifest()
    if how.place.namespace:
        document["metadata"]["namespace"] = how.place.namespace
    if how.output is Format.JSON:
        print_document(document, how.output)
    elif how.output is Format.NAME:
        print(f"florencejob.florence.dev/{job.metadata.name}")
    else:
        from florence_operator.api import to_yaml

        print(to_yaml(document), end="")


def _run_here(job: FlorenceJob, how: How) -> None:
    if how.dry_run or how.place != Place(namespace=how.place.namespace):
        raise ConfigurationError("--local excludes --context, --kubeconfig and --dry-run=server")
    if how.output in (Format.WIDE, Format.NAME):
        raise ConfigurationError(f"-o {how.output}: a local run prints table, json or yaml")
    from florencectl.local_run import run_local

    if how.place.namespace:
        metadata = job.metadata.model_copy(update={"namespace": how.place.namespace})
        job = job.model_copy(update={"metadata": metadata})
    output = DocumentFormat(how.output.value)
    raise typer.Exit(
        run_local(
            job,
            again=how.again,
            processes=how.processes,
            output=output,
            detach=how.detach,
            extend=how.extend,
        )
    )

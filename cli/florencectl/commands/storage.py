"""``florencectl storage``: a bucket that a team shares."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from florence.errors import ConfigurationError
from florencectl.cluster.connection import Place, is_configured
from florencectl.options import Context, Kubeconfig
from florencectl.output import (
    DocumentFormat,
    byte_size,
    note,
    plural,
    print_document,
    print_table,
)
from florencectl.storage.usage import By

if TYPE_CHECKING:
    from florence.storage import Storage
    from florencectl.storage.credentials import Credentials
    from florencectl.storage.garbage import Decision

app = typer.Typer(
    name="storage",
    help="Prepare, check and clean a bucket that a team shares.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Uri = Annotated[
    str, typer.Argument(help="What jobs have as artifacts.uri: s3://bucket or s3://bucket/prefix.")
]
S3Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        envvar="FLORENCE_S3_ENDPOINT",
        help="URL of the S3 service; default: AWS_ENDPOINT_URL, or Amazon's.",
        metavar="URL",
    ),
]
Region = Annotated[str | None, typer.Option("--region", help="Of the bucket.")]
Namespace = Annotated[
    str | None,
    typer.Option("-n", "--namespace", help="Of this namespace only.", metavar="NAME"),
]
Shared = Annotated[
    list[str] | None,
    typer.Option("--read", help="Prefix of the bucket that may be read: data.", metavar="PREFIX"),
]
SecretName = Annotated[
    str, typer.Option("--secret", help="Name of the Secret: artifacts.credentialsSecret.")
]
Output = Annotated[DocumentFormat, typer.Option("-o", "--output", help="table, json or yaml.")]


@app.callback()
def group() -> None:
    """Prepare, check and clean a bucket that a team shares."""


@app.command("prepare")
def prepare(
    uri: Uri,
    endpoint: S3Endpoint = None,
    namespaces: Annotated[
        list[str] | None,
        typer.Option(
            "-n",
            "--namespace",
            help="Gets a user, a policy and a Secret; may be given "
            "several times. Default: the context's.",
            metavar="NAME",
        ),
    ] = None,
    read: Shared = None,
    secret: SecretName = "minio",
    secret_out: Annotated[
        Path | None,
        typer.Option(help="Write the Secrets to this file (mode 0600), not to a cluster."),
    ] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="Give users new secret keys.")] = False,
    region: Region = None,
    output: Output = DocumentFormat.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Make a bucket, and for each namespace a user that may touch its own folder only.

    Versioning is off, and uploads that never ended are removed after a day. On MinIO a namespace
    gets a policy, a user and a Secret with its credentials; elsewhere its policy is printed for
    whoever makes users there. What is as it should be is left alone. The credentials of who runs
    the server come from MINIO_ROOT_USER and MINIO_ROOT_PASSWORD, or from AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY, or are asked for.
    """
    from florencectl.storage.credentials import administrator
    from florencectl.storage.policy import grants, policy
    from florencectl.storage.preparing import Result, prepare_bucket, prepare_user, unmanaged
    from florencectl.storage.secret_places import ClusterSecrets, FileSecrets
    from florencectl.storage.server import S3Server

    place = Place(kubeconfig, context)
    bucket, base = _bucket(uri)
    wanted = grants(bucket, base, namespaces or [_own_namespace(place)], read or ())
    admin = administrator(os.environ, _ask if sys.stdin.isatty() else None)
    server = S3Server(_checked_endpoint(endpoint), admin, region)
    steps = []
    policies: dict[str, Any] = {}
    if server.has_users():
        if secret_out is None and not is_configured(place):
            raise ConfigurationError(
                "no cluster configured to keep the Secrets in: name one (--kubeconfig), or a file "
                "for them (--secret-out)"
            )
        secrets = FileSecrets(secret_out) if secret_out else ClusterSecrets(place)
        steps += prepare_bucket(server, bucket)
        for grant in wanted:
            steps += prepare_user(server, secrets, grant, secret, admin.access_key, rotate=rotate)
    else:
        steps += [*prepare_bucket(server, bucket), *unmanaged(wanted)]
        policies = {grant.namespace: policy(grant) for grant in wanted}
        note(f"{server.endpoint} is no MinIO: users are made with its own tools; their policies:")
    rows = [[step.what, step.result.value, step.detail or None] for step in steps]
    if output is not DocumentFormat.TABLE:
        names = ("what", "result", "detail")
        done = [dict(zip(names, row, strict=True)) for row in rows]
        print_document({"steps": done, "policies": policies}, output)
    else:
        print_table(["what", "result", "detail"], rows)
        for document in policies.values():
            print_document(document, DocumentFormat.JSON)
    if all(step.result in (Result.UNCHANGED, Result.LEFT) for step in steps):
        note("nothing to change")


@app.command("check")
def check(
    uri: Uri,
    namespace: Annotated[
        str | None,
        typer.Option(
            "-n",
            "--namespace",
            help="Whose credentials they are; default: the context's.",
            metavar="NAME",
        ),
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            "--secret",
            help="The namespace's Secret that holds them; default: those of "
            "this shell (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).",
        ),
    ] = None,
    read: Shared = None,
    endpoint: S3Endpoint = None,
    region: Region = None,
    output: Output = DocumentFormat.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Try what a namespace's credentials may do, and that they are refused elsewhere.

    Writes small objects below the namespace's folder and deletes them again. Exit code 1 when
    something is not as it should be.
    """
    from florencectl.storage import checking
    from florencectl.storage.policy import grants

    place = Place(kubeconfig, context)
    bucket, base = _bucket(uri)
    namespace = namespace or _own_namespace(place)
    (grant,) = grants(bucket, base, [namespace], read or ())
    if secret:
        _take(_secret_credentials(place, namespace, secret))
    tried = checking.check(
        grant,
        lambda prefix: _open(f"s3://{bucket}/{prefix}", endpoint, region),  # type: ignore[arg-type, return-value]
    )
    findings = list(tried)
    rows = [[each.check, each.level.value, each.found] for each in findings]
    names = ["check", "result", "found"]
    if output is DocumentFormat.TABLE:
        print_table(names, rows)
    else:
        print_document([dict(zip(names, row, strict=True)) for row in rows], output)
    if checking.failed(findings):
        raise typer.Exit(1)


@app.command("usage")
def usage(
    uri: Uri,
    namespace: Namespace = None,
    by: Annotated[By, typer.Option("--by", help="namespace, job, stage or kind.")] = By.KIND,
    endpoint: S3Endpoint = None,
    region: Region = None,
    output: Output = DocumentFormat.TABLE,
) -> None:
    """Sum up objects and bytes by namespace, job, stage and kind of file."""
    from florencectl.storage.usage import documents, names_of
    from florencectl.storage.usage import usage as summed

    found = summed(_listed(uri, namespace, endpoint, region), by)
    total = sum(each.bytes for each in found)
    if output is not DocumentFormat.TABLE:
        print_document(documents(found, by), output)
        return
    rows = [
        [*(name or None for name in each.group), each.objects, byte_size(each.bytes)]
        for each in found
    ]
    print_table([*names_of(by), "objects", "size"], rows)
    note(f"{plural(sum(each.objects for each in found), 'object')}, {byte_size(total)}")


@app.command("gc")
def collect(
    uri: Uri,
    namespace: Namespace = None,
    jobs: Annotated[
        list[str] | None,
        typer.Option(
            "--job",
            help="A job that exists beside the cluster's, as NAMESPACE/NAME or "
            "NAMESPACE/NAME-UID8; may be given several times.",
            metavar="JOB",
        ),
    ] = None,
    older_than: Annotated[
        str, typer.Option(help="How long nothing was written to what may go.")
    ] = "1d",
    everything: Annotated[
        bool, typer.Option("--everything", help="Models, logs and results of deleted jobs too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it nothing is.")] = False,
    endpoint: S3Endpoint = None,
    region: Region = None,
    output: Output = DocumentFormat.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List what deleted jobs left that nobody can use, and with --yes delete it.

    That is checkpoints, and what attempts wrote without a commit; with --everything also models,
    logs and results, which may be in use: MLflow's registry points to models. Nothing is touched
    of a job that exists, that one which exists names, or that was written to lately. Which jobs
    exist the cluster says, and --job beside it: jobs of another cluster in the same bucket are to
    be named so. Namespaces that the cluster lacks are left alone unless -n names them. Folders of
    local runs, and all that is no job's, stay.
    """
    from florence_operator.api.duration import seconds
    from florencectl.storage.deleting import delete, existing_jobs
    from florencectl.storage.garbage import decide

    try:
        age = float(seconds(older_than))
    except ValueError as error:
        raise ConfigurationError(f"--older-than: {error}") from None
    place = Place(kubeconfig, context, namespace)
    if not jobs and not is_configured(place):
        raise ConfigurationError(
            "no cluster says which jobs exist: name one (--kubeconfig), or the jobs (--job)"
        )
    # Jobs are listed after the objects: a job that is made meanwhile is seen.
    entries = _listed(uri, namespace, endpoint, region)
    there = existing_jobs(place, namespace, jobs or (), is_configured(place))
    note(f"jobs that exist, as the cluster and --job say: {len(there.folders | there.names)}")
    decision = decide(entries, there, now=time.time(), older_than=age, everything=everything)
    if yes:
        storage = _open(uri, endpoint, region)
        for part in decision.parts:
            delete(storage, part)
    _print_decision(decision, output, deleted=yes)


def _print_decision(decision: Decision, output: DocumentFormat, *, deleted: bool) -> None:
    rows: list[dict[str, Any]] = [
        {
            "job": part.folder.path,
            "what": part.what,
            "objects": len(part.entries),
            "bytes": part.bytes,
        }
        for part in decision.parts
    ]
    kept = [{"job": folder.path, "reason": reason} for folder, reason in decision.kept]
    if output is not DocumentFormat.TABLE:
        print_document({"deleted" if deleted else "garbage": rows, "kept": kept}, output)
        return
    print_table(
        ["job", "what", "objects", "size"],
        [[row["job"], row["what"], row["objects"], byte_size(row["bytes"])] for row in rows],
    )
    for each in kept:
        note(f"kept {each['job']}: {each['reason']}")
    size = byte_size(sum(part.bytes for part in decision.parts))
    number = plural(sum(len(part.entries) for part in decision.parts), "object")
    if deleted:
        note(f"{number} deleted, {size}")
    else:
        note(f"{number} may go, {size}: dry run, --yes deletes")


def _bucket(uri: str) -> tuple[str, str]:
    from florence.storage.opening import check_uri

    if not uri.startswith("s3://"):
        raise ConfigurationError(f"{uri} is no bucket: write s3://bucket or s3://bucket/prefix")
    check_uri(uri)
    bucket, _, base = uri.removeprefix("s3://").strip("/").partition("/")
    return bucket, base


def _own_namespace(place: Place) -> str:
    """The namespace of the context."""
    from florencectl.cluster.connection import on_cluster

    if not is_configured(place):
        raise ConfigurationError("no cluster configured: say which namespace is meant (-n NAME)")

    async def found(_: Any, namespace: str) -> str:
        return namespace

    return on_cluster(place, found)


def _checked_endpoint(endpoint: str | None) -> str | None:
    from pydantic import ValidationError

    from florence.config.base import first_problem
    from florence.config.storage import S3Settings

    given = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    try:
        return S3Settings(endpoint=given or None).endpoint
    except ValidationError as error:
        raise ConfigurationError(f"--endpoint: {first_problem(error)}") from None


def _open(uri: str, endpoint: str | None, region: str | None) -> Storage:
    from florence.config.storage import S3Settings
    from florence.storage import open_storage

    settings = S3Settings(endpoint=_checked_endpoint(endpoint), region=region, attempts=3)
    return open_storage(uri, settings)


def _listed(uri: str, namespace: str | None, endpoint: str | None, region: str | None) -> list[Any]:
    """The objects below ``artifacts.uri``, or below a namespace's folder there."""
    _bucket(uri)
    storage = _open(uri, endpoint, region)
    return storage.list(f"{namespace}/" if namespace else "")


def _ask(what: str, hidden: bool) -> str:
    return str(typer.prompt(what, hide_input=hidden, err=True))


def _secret_credentials(place: Place, namespace: str, name: str) -> Credentials:
    from florencectl.cluster.errors import NotFoundError
    from florencectl.storage.credentials import credentials_of
    from florencectl.storage.secret_places import ClusterSecrets

    found = ClusterSecrets(place).get(namespace, name)
    held = credentials_of(found) if found else None
    if held is None:
        raise NotFoundError(f"Secret {namespace}/{name} holds no credentials, or does not exist")
    return held


def _take(credentials: Credentials) -> None:
    """Use credentials in this process."""
    from florencectl.storage.credentials import ACCESS_KEY, SECRET_KEY, TOKEN

    os.environ[ACCESS_KEY], os.environ[SECRET_KEY] = credentials.access_key, credentials.secret_key
    os.environ.pop(TOKEN, None)
    if credentials.session_token:
        os.environ[TOKEN] = credentials.session_token

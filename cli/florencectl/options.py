"""The options that several commands share, spelt as kubectl spells them."""

from __future__ import annotations

from typing import Annotated

import typer

from florencectl.completing import job_names
from florencectl.output import Format

JobName = Annotated[str, typer.Argument(help="Job.", autocompletion=job_names)]
JobNames = Annotated[
    list[str] | None,
    typer.Argument(help="Jobs; all of them when left out.", autocompletion=job_names),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "-n", "--namespace", help="Namespace of the job; default: the context's.", metavar="NAME"
    ),
]
AllNamespaces = Annotated[
    bool, typer.Option("-A", "--all-namespaces", help="Jobs of all namespaces.")
]
Selector = Annotated[
    str, typer.Option("-l", "--selector", help="Labels of the jobs, such as team=vision.")
]
Context = Annotated[
    str | None, typer.Option("--context", help="Context of the kubeconfig.", metavar="NAME")
]
Kubeconfig = Annotated[
    str | None,
    typer.Option(
        "--kubeconfig", help="File; default: KUBECONFIG, or ~/.kube/config.", metavar="FILE"
    ),
]
Local = Annotated[bool, typer.Option("--local", help="Jobs of this machine, not of a cluster.")]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes", min=1, help="Local ranks at most; default: the GPUs, or else the cores."
    ),
]
Detach = Annotated[
    bool,
    typer.Option("--detach", help="With --local: let it run on in the background, and return."),
]
Output = Annotated[Format, typer.Option("-o", "--output", help="table, wide, json, yaml or name.")]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        envvar="FLORENCE_S3_ENDPOINT",
        help="URL of the job's S3 service from here, where the job's own is the cluster's.",
        metavar="URL",
    ),
]
ModelUri = Annotated[
    str,
    typer.Argument(
        help="Folder or s3:// URI of a model or of a stage, or models:/NAME@champion of MLflow."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda or cuda:1, say; default: the GPU if there is one.",
        metavar="NAME",
    ),
]
ModelEndpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        envvar="FLORENCE_S3_ENDPOINT",
        help="URL of the S3 service of s3:// URIs; default: AWS_ENDPOINT_URL. Credentials are "
        "those of the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.",
        metavar="URL",
    ),
]

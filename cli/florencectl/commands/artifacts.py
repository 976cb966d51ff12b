"""``florencectl artifacts``: what a job on a cluster has stored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from florencectl.cluster.connection import Place
from florencectl.options import Context, Endpoint, JobName, Kubeconfig, Namespace
from florencectl.output import Format

app = typer.Typer(
    help="List and fetch what a job on a cluster has stored.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

Stage = Annotated[str | None, typer.Option("--stage", help="Of this stage only.")]


@app.command("ls")
def list_artifacts(
    name: JobName,
    path: Annotated[str, typer.Argument(help="Folder or file, as listed.")] = "",
    stage: Stage = None,
    recursive: Annotated[
        bool, typer.Option("-R", "--recursive", help="Every file, not the folders.")
    ] = False,
    output: Annotated[
        Format, typer.Option("-o", "--output", help="table, wide, json, yaml or name.")
    ] = Format.TABLE,
    endpoint: Endpoint = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List a job's files with their sizes."""
    from florencectl.cluster.artifacts import list_files

    place = Place(kubeconfig, context, namespace)
    list_files(place, name, stage, path, endpoint, recursive=recursive, output=output)


@app.command("get")
def get_artifacts(
    name: JobName,
    path: Annotated[str, typer.Argument(help="File or folder, as listed.")] = "",
    stage: Stage = None,
    directory: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to.")] = Path(
        "."
    ),
    endpoint: Endpoint = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Fetch a file, or everything in a folder."""
    from florencectl.cluster.artifacts import fetch_files

    fetch_files(Place(kubeconfig, context, namespace), name, stage, path, endpoint, directory)

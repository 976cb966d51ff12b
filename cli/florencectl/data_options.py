"""The options that the ``data`` commands share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from florencectl.output import DocumentFormat, note

if TYPE_CHECKING:
    from florence.config.storage import S3Settings

Uri = Annotated[
    str, typer.Argument(help="Folder of WebDataset shards, s3://bucket/prefix, or builtin:….")
]
Output = Annotated[DocumentFormat, typer.Option("-o", "--output", help="How results are printed.")]
Endpoint = Annotated[str | None, typer.Option(help="Address of an S3 server that is not Amazon's.")]
Region = Annotated[str | None, typer.Option(help="Region that S3 requests are signed for.")]
Processes = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="Processes. Default: one per processor."),
]


def s3_settings(endpoint: str | None, region: str | None) -> S3Settings | None:
    """Where ``s3://`` is; None leaves it to the environment."""
    if endpoint is None and region is None:
        return None
    from florence.config.storage import S3Settings

    return S3Settings(endpoint=endpoint, region=region)


def process_count(asked: int | None) -> int:
    """How many processes to use: as many as asked for, else one per processor."""
    return asked or os.cpu_count() or 1


def note_on_terminal(message: str) -> None:
    """Tell somebody who watches how far the work has come; a log has no use for it."""
    if os.isatty(2):
        note(message)

"""``florencectl data curate``: filter shards, and say what was dropped and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from florence.curation.settings import Curation
from florencectl.data_options import (
    Endpoint,
    Output,
    Processes,
    Region,
    Uri,
    note_on_terminal,
    process_count,
    s3_settings,
)
from florencectl.flags import with_flags
from florencectl.output import DocumentFormat, note, print_document, print_table

if TYPE_CHECKING:
    from florence.curation.report import Report

EPILOG = (
    "Example: florencectl data curate shards/web shards/clean --min-side 200 --max-words 40 "
    "--against shards/imagenet-val --against flickr30k/test"
)


def _curate(
    uri: Uri,
    out: Annotated[str, typer.Argument(help="Empty folder or s3://bucket/prefix to write to.")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="URI",
            help="Evaluation set (shards, folder of images, or a file that can be imported): drop "
            "what nearly equals one of its images; may be repeated.",
        ),
    ] = None,
    memory: Annotated[
        int, typer.Option(min=64, help="Memory in MiB that each process may sort in.")
    ] = 1024,
    scratch: Annotated[
        Path | None, typer.Option(help="Local folder for what does not fit into memory.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the relevance model runs.")] = "cpu",
    output: Output = DocumentFormat.TABLE,
    processes: Processes = None,
    endpoint: Endpoint = None,
    region: Region = None,
    **fields: Any,
) -> None:
    """Write the samples of URI that pass every filter to OUT, under the same names.

    What was dropped and why is printed, written to OUT/curation.json, and listed sample by sample
    in OUT/dropped. A killed run goes on where it stopped when the same command is run again.
    """
    from florence.curation.curate import curate as run

    given = {name: value for name, value in fields.items() if value is not None}
    settings = Curation.model_validate({**given, "against": tuple(against or ())})
    report = run(
        uri,
        out,
        settings,
        s3_settings(endpoint, region),
        processes=process_count(processes),
        memory=memory << 20,
        scratch=scratch,
        device=device,
        on_shard=lambda what, done, total, shard: note_on_terminal(
            f"{what} {done}/{total} {shard}"
        ),
    )
    _print(report, output)


curate = with_flags(_curate, Curation)


def _print(report: Report, output: DocumentFormat) -> None:
    if output is not DocumentFormat.TABLE:
        print_document(report.wire(), output)
        return
    rows: list[list[Any]] = [["samples", report.samples, None]]
    for reason, count in report.dropped.items():
        first = next(iter(report.examples.get(reason, ())), None)
        where = f"{first['shard']}:{first['key']} {first['detail']}".strip() if first else None
        rows.append([reason, count, where])
    rows.append(["kept", report.kept, None])
    print_table(["what", "count", "first"], rows)
    if report.unreadable_evaluation_images:
        note(
            f"{report.unreadable_evaluation_images} images of the evaluation sets cannot be read "
            "and were not compared"
        )

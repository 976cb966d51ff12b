"""``florencectl data import flod``: detection data sets merged into one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from florencectl.data_options import (
    Endpoint,
    Output,
    Processes,
    Region,
    note_on_terminal,
    process_count,
    s3_settings,
)
from florencectl.output import DocumentFormat, note, print_document, print_table

if TYPE_CHECKING:
    from florence.data.importing.importer import Imported

PAPER = {"images": 8_967_286, "categories": 25_190, "boxes": 33_408_237, "boxes per image": 3.73}
"""FLOD-9M as the paper counts it (arXiv 2111.11432, 2.1)."""
_SHOWN_ROWS = 20


def flod(
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="Empty folder or s3://bucket/prefix to write to.")
    ],
    source: Annotated[
        list[str],
        typer.Option(
            "--source",
            metavar="NAME=URI",
            help="A data set: shards with boxes, or a file that can be imported. May be repeated.",
        ),
    ],
    output: Output = DocumentFormat.TABLE,
    processes: Processes = None,
    endpoint: Endpoint = None,
    region: Region = None,
    **fields: Any,
) -> None:
    """Merge detection data sets: one name for one thing, shared images once.

    Images that several of them have are told by their bytes; of boxes with one name and an IoU
    above 0.9 one is kept. Each data set's vocabulary is kept, so that a detector learns nothing
    from the absence of what nobody looked for.
    """
    from florence.data.flod.settings import FLOD
    from florence.data.importing.importer import import_data

    given = {name: value for name, value in fields.items() if value is not None}
    done = import_data(
        FLOD,
        source,
        out,
        FLOD.settings.model_validate(given),
        s3_settings(endpoint, region),
        processes=process_count(processes),
        on_shard=lambda name, rows, samples: note_on_terminal(
            f"{name} stored: {samples} of {rows} images"
        ),
    )
    _print(done, output)


def _print(done: Imported, output: DocumentFormat) -> None:
    from florence.data.importing.importer import named

    if done.known:
        note(f"{done.uri} was merged before; sources and settings are the same")
    if output is not DocumentFormat.TABLE:
        print_document(done.wire(), output)
        return
    counts = {
        "images": done.samples,
        "categories": done.classes,
        "boxes": done.boxes,
        "boxes per image": round(done.boxes / done.samples, 2),
    }
    rows: list[list[Any]] = [[name, n, PAPER[name]] for name, n in counts.items()]
    print_table(["what", "count", "FLOD-9M"], [*rows, ["broken rows", done.broken, None]])
    for line in named(done.broken_rows, _SHOWN_ROWS):
        note(line)

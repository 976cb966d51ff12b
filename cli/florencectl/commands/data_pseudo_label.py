"""``florencectl data pseudo-label``: boxes that a detector draws where no person did."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from florence.data.importing.pseudo import PSEUDO_LABELS
from florencectl.data_options import (
    Endpoint,
    Output,
    Processes,
    Region,
    note_on_terminal,
    process_count,
    s3_settings,
)
from florencectl.examples import examples_text
from florencectl.output import DocumentFormat, note, print_document, print_table
from florencectl.program import program_name

_SHOWN_ROWS = 20
EPILOG = examples_text([f"data pseudo-label {PSEUDO_LABELS.example}"], program_name())


def pseudo_label(
    detector: Annotated[
        str, typer.Argument(metavar="DETECTOR", help="A trained detector, local or s3://….")
    ],
    source: Annotated[
        str,
        typer.Argument(metavar="URI", help=f"{PSEUDO_LABELS.sources}; local or s3://…."),
    ],
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="Empty folder or s3://bucket/prefix to write to.")
    ],
    output: Output = DocumentFormat.TABLE,
    processes: Processes = None,
    endpoint: Endpoint = None,
    region: Region = None,
    **fields: Any,
) -> None:
    """Write images with the boxes that a detector finds in them, scores kept.

    A killed run goes on where it stopped when the same command is run again.
    """
    from florence.data.importing.importer import import_data, named

    given = {name: value for name, value in fields.items() if value is not None}
    done = import_data(
        PSEUDO_LABELS,
        [source],
        out,
        PSEUDO_LABELS.settings.model_validate({**given, "detector": detector}),
        s3_settings(endpoint, region),
        processes=process_count(processes),
        on_shard=lambda name, rows, samples: note_on_terminal(
            f"{name} stored: {samples} of {rows} images"
        ),
    )
    if done.known:
        note(f"{done.uri} was written before; detector, source and settings are the same")
    if output is not DocumentFormat.TABLE:
        print_document(done.wire(), output)
        return
    print_table(
        ["what", "count"],
        [
            ["images", done.samples],
            ["categories", done.classes],
            ["boxes", done.boxes],
            ["boxes per image", round(done.boxes / done.samples, 2)],
            ["broken rows", done.broken],
        ],
    )
    for line in named(done.broken_rows, _SHOWN_ROWS):
        note(line)

"""``florencectl data import``: one command for each format of the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from florence.data.flod.settings import FLOD
from florence.data.importing.registry import FORMATS, ImportFormat
from florencectl.commands.data_flod import flod
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
from florencectl.flags import with_flags
from florencectl.output import DocumentFormat, note, print_document, print_table
from florencectl.program import program_name

if TYPE_CHECKING:
    from florence.data.importing.importer import Imported

app = typer.Typer(
    name="import",
    help="Write data of the field's formats as shards: import FORMAT SOURCE… OUT.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Target = Annotated[
    str, typer.Argument(metavar="OUT", help="Empty folder or s3://bucket/prefix to write to.")
]

_SHOWN_ROWS = 20


def _add(kind: ImportFormat) -> None:
    sources = Annotated[
        list[str], typer.Argument(metavar="SOURCE", help=f"{kind.sources}; local or s3://….")
    ]

    def command(
        source: sources,
        out: Annotated[
            str,
            typer.Argument(metavar="OUT", help="Empty folder or s3://bucket/prefix to write to."),
        ],
        output: Output = DocumentFormat.TABLE,
        processes: Processes = None,
        endpoint: Endpoint = None,
        region: Region = None,
        **fields: Any,
    ) -> None:
        from florence.data.importing.importer import import_data

        given = {name: value for name, value in fields.items() if value is not None}
        done = import_data(
            kind,
            source,
            out,
            kind.settings.model_validate(given),
            s3_settings(endpoint, region),
            processes=process_count(processes),
            on_shard=lambda name, rows, samples: note_on_terminal(
                f"{name} stored: {samples} of {rows} rows"
            ),
        )
        _print(done, output)

    command.__doc__ = (
        f"{kind.help}\n\nA killed import goes on where it stopped when the same command is run "
        "again; until then nothing takes OUT for data."
    )
    command.__annotations__["source"] = sources
    example = examples_text([f"data import {kind.name} {kind.example}"], program_name())
    app.command(kind.name, epilog=example)(with_flags(command, kind.settings))


def _print(done: Imported, output: DocumentFormat) -> None:
    from florence.data.importing.importer import named

    if done.known:
        note(f"{done.uri} was imported before; sources and settings are the same")
    if output is not DocumentFormat.TABLE:
        print_document(done.wire(), output)
        return
    rows = [["rows", done.rows], ["samples", done.samples], ["broken rows", done.broken]]
    if done.boxes or done.broken_boxes:
        rows += [["boxes", done.boxes], ["broken boxes", done.broken_boxes]]
    if done.classes:
        rows.append(["classes", done.classes])
    print_table(["what", "count"], rows)
    for line in named(done.broken_rows, _SHOWN_ROWS):
        note(line)


def _add_flod() -> None:
    example = examples_text([f"data import {FLOD.name} {FLOD.example}"], program_name())
    app.command(FLOD.name, epilog=example)(with_flags(flod, FLOD.settings))


for _kind in FORMATS.values():
    _add(_kind)
_add_flod()

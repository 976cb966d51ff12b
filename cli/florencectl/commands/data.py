"""``florencectl data``: import, curate, index and check shards of image-text pairs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from florence.data.importing.pseudo import PSEUDO_LABELS
from florencectl.commands.data_curate import EPILOG as CURATE_HELP
from florencectl.commands.data_curate import curate
from florencectl.commands.data_import import app as import_app
from florencectl.commands.data_pseudo_label import EPILOG as PSEUDO_LABEL_HELP
from florencectl.commands.data_pseudo_label import pseudo_label
from florencectl.data_options import Endpoint, Output, Region, Uri, note_on_terminal, s3_settings
from florencectl.flags import with_flags
from florencectl.output import DocumentFormat, note, print_document, print_table

if TYPE_CHECKING:
    from florence.data.indexing import Indexed

app = typer.Typer(
    name="data",
    help="Build and inspect training data.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(import_app)
app.command("curate", epilog=CURATE_HELP)(curate)
app.command("pseudo-label", epilog=PSEUDO_LABEL_HELP)(
    with_flags(pseudo_label, PSEUDO_LABELS.settings)
)

Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes. Default: one per processor."),
]

_SHOWN_PROBLEMS = 20
_NAMES = {
    "images": "images",
    "clips": "clips",
    "texts": "texts",
    "uniqueTexts": "unique texts",
    "pairsWithSharedText": "pairs with shared text",
    "uniqueQueries": "unique queries",
    "tokens": "tokens",
    "shortTexts": "short texts",
    "labelled": "labelled images",
    "classes": "classes",
    "shards": "shards",
    "bytes": "bytes",
    "problems": "problems",
}


@app.command()
def digits(
    out: Annotated[str, typer.Argument(help="Folder or s3://bucket/prefix to write to.")],
    side: Annotated[int, typer.Option(min=8, max=1024, help="Side of the images in pixels.")] = 32,
    scenes: Annotated[
        bool,
        typer.Option(
            help="Also write OUT/scenes, OUT/questions and OUT/chalk: digits in larger pictures."
        ),
    ] = True,
    clips: Annotated[
        bool,
        typer.Option(help="Also write OUT/actions and OUT/pairs: videos of digits in motion."),
    ] = True,
    output: Output = DocumentFormat.TABLE,
    endpoint: Endpoint = None,
    region: Region = None,
) -> None:
    """Write the built-in scanned digits as WebDataset shards: OUT/train and OUT/test.

    OUT/scenes/train and OUT/scenes/test hold scenes with boxes, also as COCO would have them:
    OUT/scenes/instances_train.json with OUT/scenes/images/train. OUT/questions has scenes with
    captions and questions, and beside the shards the same with VQAv2's and Karpathy's json.
    OUT/chalk has single digits as those scenes show them, with captions.
    OUT/actions has videos of a digit in motion, in eight classes, with Kinetics' csv beside the
    shards; OUT/pairs those of a digit that passes another, with captions and MSR-VTT's json.
    """
    from florence.data.digit_chalk import write_chalk
    from florence.data.digit_clips import write_actions, write_pairs
    from florence.data.digit_questions import write_questions
    from florence.data.digit_scenes import write_scenes
    from florence.data.digits import write_digits

    s3 = s3_settings(endpoint, region)
    counts = write_digits(out, s3, side=side)
    base = out.rstrip("/")
    more: dict[str, dict[str, int]] = {}
    if scenes:
        more["chalk"] = write_chalk(f"{base}/chalk", s3)
        more["scenes"] = write_scenes(f"{base}/scenes", s3, coco=True)
        more["questions"] = write_questions(f"{base}/questions", s3)
    if clips:
        more["actions"] = write_actions(f"{base}/actions", s3, files=True)
        more["pairs"] = write_pairs(f"{base}/pairs", s3, files=True)
    for name, made in more.items():
        counts |= {f"{name}/{split}": count for split, count in made.items()}
    if output is not DocumentFormat.TABLE:
        print_document({"uri": out, "samples": counts}, output)
        return
    print_table(["split", "samples", "uri"], [[s, n, f"{base}/{s}"] for s, n in counts.items()])


@app.command()
def index(
    uri: Uri,
    output: Output = DocumentFormat.TABLE,
    force: Annotated[bool, typer.Option("--force", help="Read unchanged shards again.")] = False,
    workers: Workers = None,
    endpoint: Endpoint = None,
    region: Region = None,
) -> None:
    """Write a byte index beside each shard and a manifest, and print what the data holds."""
    from florence.data.builtin import resolve
    from florence.data.indexing import index_data
    from florence.errors import DataError

    found = index_data(
        resolve(uri),
        s3_settings(endpoint, region),
        workers=workers or os.cpu_count() or 1,
        force=force,
        on_shard=_progress("indexed"),
    )
    _print(found, output)
    if found.problems:
        _note_problems(found)
        raise DataError(
            f"{_count(found)}: replace or remove them and run this again; all else is indexed "
            "('florencectl data check' also decodes the images)"
        )


@app.command()
def check(
    uri: Uri,
    output: Output = DocumentFormat.TABLE,
    workers: Workers = None,
    endpoint: Endpoint = None,
    region: Region = None,
) -> None:
    """Decode everything and name every broken member; exits with code 3 if there is one."""
    from florence.data.builtin import resolve
    from florence.data.indexing import check_data
    from florence.errors import DataError

    found = check_data(
        resolve(uri),
        s3_settings(endpoint, region),
        workers=workers or os.cpu_count() or 1,
        on_shard=_progress("checked"),
    )
    if output is DocumentFormat.TABLE and found.problems:
        print_table(
            ["shard", "member", "reason"],
            [[p.shard, p.member or None, p.reason] for p in found.problems],
        )
    else:
        _print(found, output)
    if found.problems:
        raise DataError(
            f"{_count(found)}: replace or remove them, then run 'florencectl data index' again"
        )


def _count(found: Indexed) -> str:
    count, shards = found.statistics.problems, found.statistics.shards
    return f"{found.uri}: {count} problem{'s' * (count > 1)} in {shards} shards"


def _print(found: Indexed, output: DocumentFormat) -> None:
    statistics = found.statistics.wire()
    if output is DocumentFormat.TABLE:
        print_table(["what", "count"], [[_NAMES[name], n] for name, n in statistics.items()])
        return
    problems = [{"shard": p.shard, "member": p.member, "reason": p.reason} for p in found.problems]
    print_document({"uri": found.uri, "statistics": statistics, "problems": problems}, output)


def _note_problems(found: Indexed) -> None:
    for problem in found.problems[:_SHOWN_PROBLEMS]:
        note(f"{problem}")
    if len(found.problems) > _SHOWN_PROBLEMS:
        note("…")


def _progress(verb: str) -> Any:
    """A line per shard on a terminal's stderr when there are several."""

    def report(done: int, total: int, shard: str) -> None:
        if total > 1:
            note_on_terminal(f"{verb} {done}/{total} {shard}")

    return report

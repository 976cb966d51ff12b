"""``florencectl search``: the images and videos nearest to a text, among embeddings."""

from __future__ import annotations

from typing import Annotated

import typer

from florence.config.storage import S3Settings
from florencectl.commands.predict import AnswerFormat
from florencectl.options import Device, ModelEndpoint, ModelUri
from florencectl.output import DocumentFormat, print_csv, print_document, print_table
from florencectl.searching import EmbeddingIndex


def search(
    model: ModelUri,
    index: Annotated[
        str, typer.Argument(metavar="INDEX", help="A .npz that florencectl embed wrote.")
    ],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to look for.")],
    top: Annotated[int, typer.Option(min=1, help="Results shown.")] = 10,
    output: Annotated[
        AnswerFormat, typer.Option("-o", "--output", help="table, csv, json or yaml.")
    ] = AnswerFormat.TABLE,
    device: Device = None,
    endpoint: ModelEndpoint = None,
) -> None:
    """Find the images and videos whose embeddings are nearest to a text's.

    The model is the one that embedded them. The score is the cosine, at most 1; every embedding is
    compared, none is approximated.
    """
    opened = EmbeddingIndex.open(index)
    from florence.loading import load

    loaded = load(model, device=device, s3=S3Settings(endpoint=endpoint))
    found = opened.search(loaded.embed_texts(text).numpy()[0], top)
    if output in (AnswerFormat.TABLE, AnswerFormat.CSV):
        show = print_table if output is AnswerFormat.TABLE else print_csv
        show(["name", "score"], [[each.name, f"{each.score:.4f}"] for each in found])
        return
    document = [{"name": each.name, "score": round(each.score, 6)} for each in found]
    print_document(document, DocumentFormat(output.value))

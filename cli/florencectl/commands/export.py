"""``florencectl export``: models of ours as folders that other programs load."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from florence.errors import ConfigurationError
from florencectl.model_uris import resolved
from florencectl.options import ModelEndpoint, ModelUri
from florencectl.output import byte_size, note


class ExportFormat(StrEnum):
    """The value of ``--format``."""

    SAFETENSORS = "safetensors"
    HF = "hf"
    ONNX = "onnx"
    TORCH_EXPORT = "torch-export"


def export(
    model: ModelUri,
    out: Annotated[str, typer.Argument(help="Folder or s3://bucket/prefix to write to.")],
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="safetensors: weights and card, of any task. hf: what transformers' AutoModel "
            "loads with trust_remote_code=True, onnx and torch-export: a graph of each encoder; "
            "these of two towers.",
        ),
    ] = ExportFormat.SAFETENSORS,
    force: Annotated[bool, typer.Option("--force", help="Replace a model that is there.")] = False,
    endpoint: ModelEndpoint = None,
) -> None:
    """Write a model, wherever it is, as a folder that other programs load.

    The files' names are printed. A format that cannot hold the model's task is refused, with the
    reason.
    """
    from florence.config.storage import S3Settings
    from florence.models.opening import open_stored
    from florence.models.stored import CARD, model_bytes
    from florence.storage import open_storage

    s3 = S3Settings(endpoint=endpoint)
    target = open_storage(out, s3)
    if not force and target.size(CARD) is not None:
        raise ConfigurationError(f"{target.uri}: a model is there already: --force replaces it")
    stored = open_stored(resolved(model, s3), s3)
    if form is ExportFormat.SAFETENSORS:
        files = model_bytes(stored.state, stored.card)
    elif form is ExportFormat.HF:
        from florence.models.exporting.hugging_face import hugging_face_files

        files = hugging_face_files(stored)
    else:
        from florence.models.exporting.graphs import onnx_files, torch_export_files

        files = (onnx_files if form is ExportFormat.ONNX else torch_export_files)(stored)
    # The card last: who finds it finds the rest.
    for name in sorted(files, key=lambda name: name == CARD):
        target.write(name, files[name])
        print(target.url(name))
    note(f"a {stored.card.task} model, {byte_size(sum(map(len, files.values())))}")

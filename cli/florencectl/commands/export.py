"""``florencectl export``: models of ours as folders that other programs load."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from florence.errors import ConfigurationError
from florencectl.model_uris import resolved
from florencectl.options import ModelEndpoint, ModelUri
from florencectl.output import byte_size, note

if TYPE_CHECKING:
    from florence.config.storage import S3Settings
    from florence.models.stored import StoredModel


class ExportFormat(StrEnum):
    """The value of ``--format``."""

    SAFETENSORS = "safetensors"
    HF = "hf"
    ONNX = "onnx"
    TORCH_EXPORT = "torch-export"
    TIMM = "timm"
    OPEN_CLIP = "open-clip"


Out = Annotated[str, typer.Argument(help="Folder or s3://bucket/prefix to write to.")]
Form = Annotated[
    ExportFormat,
    typer.Option(
        "--format",
        help="safetensors: weights and card, of any task. hf: what transformers' AutoModel "
        "loads with trust_remote_code=True; onnx and torch-export: a graph of each encoder or "
        "of the classifier; timm: the image tower, where it is a Swin; these of two towers "
        "and classifiers. open-clip: two towers, where the image tower is one of timm's Swins.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a model that is there.")]


def export(
    model: ModelUri,
    out: Out,
    form: Form = ExportFormat.SAFETENSORS,
    force: Force = False,
    endpoint: ModelEndpoint = None,
) -> None:
    """Write a model, wherever it is, as a folder that other programs load.

    The files' names are printed. A format that cannot hold the model's task is refused, with the
    reason.
    """
    from florence.config.storage import S3Settings

    s3 = S3Settings(endpoint=endpoint)
    write_folder(lambda: resolved(model, s3), out, form, s3, force=force)


def write_folder(
    located: Callable[[], str], out: str, form: ExportFormat, s3: S3Settings, *, force: bool
) -> None:
    """Write a model as a folder, and tell of it.

    Args:
        located: says where the model's files are; asked once the folder is known to be free.
        s3: where ``s3://`` is, of the model and of the folder.

    Raises:
        ConfigurationError: the folder has a model, or the format has no place for this one.
    """
    from florence.models.exporting.open_clip import CONFIG
    from florence.models.opening import open_stored
    from florence.models.stored import CARD
    from florence.storage import open_storage

    target = open_storage(out, s3)
    cards = (CARD, CONFIG)
    if not force and any(target.size(name) is not None for name in cards):
        raise ConfigurationError(f"{target.uri}: a model is there already: --force replaces it")
    stored = open_stored(located(), s3)
    files = _files(stored, form)
    # The card last: who finds it finds the rest.
    for name in sorted(files, key=lambda name: name in cards):
        target.write(name, files[name])
        print(target.url(name))
    note(f"a {stored.card.task} model, {byte_size(sum(map(len, files.values())))}")


def _files(stored: StoredModel, form: ExportFormat) -> dict[str, bytes]:
    """The folder's files by name. Each format is imported where it is asked for."""
    if form is ExportFormat.SAFETENSORS:
        from florence.models.stored import model_bytes

        return model_bytes(stored.state, stored.card)
    if form is ExportFormat.HF:
        from florence.models.exporting.hugging_face import hugging_face_files

        return hugging_face_files(stored)
    if form is ExportFormat.TIMM:
        from florence.models.exporting.timm_swin import timm_files

        return timm_files(stored)
    if form is ExportFormat.OPEN_CLIP:
        from florence.models.exporting.open_clip import open_clip_files

        return open_clip_files(stored)
    from florence.models.exporting.graphs import onnx_files, torch_export_files

    return onnx_files(stored) if form is ExportFormat.ONNX else torch_export_files(stored)

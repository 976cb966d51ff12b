"""``florencectl model``: models of other projects as models of ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from florence.config.base import first_problem
from florence.errors import ConfigurationError
from florencectl.output import DocumentFormat, count, note, print_document, print_table

if TYPE_CHECKING:
    from florence.models.importing.assemble import ImportReport
    from florence.models.importing.settings import ImportSettings

app = typer.Typer(
    name="model",
    help="Bring models in from other projects.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def group() -> None:
    """Bring models in from other projects."""


@app.command("import")
def import_command(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Checkpoints: a timm Swin, an open_clip or CLIP text tower, one of each, or a "
            "UniCL Swin; safetensors or files of torch.save.",
        ),
    ],
    out: Annotated[str, typer.Argument(help="Folder or s3://bucket/prefix to write to.")],
    preset: Annotated[
        str, typer.Option(help="Sizes of a tower that no checkpoint has.")
    ] = "coswin-t",
    seed: Annotated[int, typer.Option(help="Of the weights that no checkpoint has.")] = 0,
    window: Annotated[
        int | None, typer.Option(min=1, help="Side of the attention windows, in tokens.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=3, help="Positions of the text tower, in tokens.")
    ] = None,
    text_heads: Annotated[
        int | None, typer.Option(min=1, help="Heads of the text tower. Default: width / 64.")
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="Of the text tower: gelu, or quick_gelu (OpenAI, UniCL).")
    ] = None,
    embed_dim: Annotated[
        int | None, typer.Option(min=1, help="Length of the shared embedding.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=1, help="Side of the images. Default: 32 times the window.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Of the channels. Default: ImageNet's, or CLIP's.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Of the channels. Default: ImageNet's, or CLIP's.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a model that is there.")] = False,
    output: Annotated[
        DocumentFormat, typer.Option("-o", "--output", help="table, json or yaml.")
    ] = DocumentFormat.TABLE,
) -> None:
    """Write a model folder of other projects' checkpoints, and say what became of each tensor.

    Sizes are read from the checkpoints. Nothing in a checkpoint is run: a pickle that holds more
    than tensors is refused. A tower that no checkpoint has is initialised from the seed.
    """
    settings = _settings(
        preset=preset,
        seed=seed,
        window=window,
        context=context,
        text_heads=text_heads,
        activation=activation,
        embed_dim=embed_dim,
        resolution=resolution,
        mean=_three(mean, "--mean"),
        std=_three(std, "--std"),
    )
    from florence.models.importing.assemble import import_model
    from florence.models.stored import CARD, WEIGHTS, model_bytes
    from florence.storage import open_storage

    storage = open_storage(out)
    if not force and storage.size(CARD) is not None:
        raise ConfigurationError(f"{storage.uri}: a model is there already: --force replaces it")
    imported = import_model(sources, settings)
    files = model_bytes(imported.model.state_dict(), imported.card)
    for name in (WEIGHTS, CARD):
        storage.write(name, files[name])
    report = imported.report
    if output is not DocumentFormat.TABLE:
        print_document(
            {"uri": storage.uri, "card": imported.card.wire(), "tensors": document(report)}, output
        )
        return
    print_table(["tensors", "became", "why"], rows(report))
    parameters = sum(value.numel() for value in imported.model.parameters())
    note(f"{storage.uri}: a {imported.card.task} model of {count(parameters)} parameters")


def document(report: ImportReport) -> dict[str, Any]:
    """Every tensor by what became of it."""
    return {
        "taken": list(report.taken),
        "resized": list(report.resized),
        "misfits": report.misfits,
        "fresh": list(report.fresh),
        "unused": list(report.unused),
    }


def rows(report: ImportReport) -> list[list[str]]:
    """What was not simply taken: a row per tensor, or per tower where all of it is alike."""
    others = {*report.taken, *report.resized, *report.misfits}
    fresh = [tower for tower in ("image", "text") if not any(n.startswith(tower) for n in others)]
    single = [name for name in report.fresh if name.partition(".")[0] not in fresh]
    return [
        [f"{len(report.taken)} tensors", "taken", "as they were"],
        *([name, "resized", "to the model's windows or positions"] for name in report.resized),
        *([name, "fresh", f"did not fit: {why}"] for name, why in report.misfits.items()),
        *([f"{tower}.*", "fresh", "no checkpoint has this tower"] for tower in fresh),
        *([name, "fresh", "in no checkpoint"] for name in single),
        *([name, "unused", "has no place in the model"] for name in report.unused),
    ]


def _settings(**values: Any) -> ImportSettings:
    from pydantic import ValidationError

    from florence.models.importing.settings import ImportSettings

    try:
        return ImportSettings(**values)
    except ValidationError as error:
        option = str(error.errors()[0]["loc"][0]).replace("_", "-")
        raise ConfigurationError(f"--{option}: {first_problem(error)}") from None


def _three(text: str | None, option: str) -> tuple[float, ...] | None:
    """Three numbers between commas."""
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise ConfigurationError(f"{option} '{text}' is not three numbers: write 0.5,0.5,0.5")
    return numbers

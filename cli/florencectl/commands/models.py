"""``florencectl models``: what jobs registered in MLflow: versions, aliases, gates, lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from florence.errors import ConfigurationError
from florencectl.commands.export import ExportFormat, Force, Form, Out, write_folder
from florencectl.options import ModelEndpoint
from florencectl.output import DocumentFormat, Format, note, print_document, print_list, print_table

if TYPE_CHECKING:
    from florence_jobs.registry.store import ModelRegistry, Version

app = typer.Typer(
    name="models",
    help="List, compare and promote the models that jobs registered in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Store = Annotated[
    str | None,
    typer.Option(
        "--mlflow",
        envvar="MLFLOW_TRACKING_URI",
        help="URI of the MLflow server; default: the store of the runs on this machine.",
        metavar="URI",
    ),
]
Name = Annotated[str, typer.Argument(help="Registered model.")]
Named = Annotated[
    str, typer.Argument(metavar="MODEL", help="NAME, NAME@ALIAS or NAME/VERSION of a model.")
]
Document = Annotated[DocumentFormat, typer.Option("-o", "--output", help="table, json or yaml.")]

_LONGEST_VALUE = 60
"""Characters of a tag in a table."""


@app.callback()
def group() -> None:
    """List, compare and promote the models that jobs registered in MLflow."""


@app.command("list")
def list_models(
    name: Annotated[
        str | None, typer.Argument(help="Model whose versions are listed; default: all models.")
    ] = None,
    output: Annotated[
        Format, typer.Option("-o", "--output", help="table, wide, json, yaml or name.")
    ] = Format.TABLE,
    mlflow: Store = None,
) -> None:
    """List registered models, or the versions of one."""
    registry = _registry(mlflow)
    if name is not None:
        aliases = registry.aliases(name)
        versions = registry.versions(name)
        print_list(
            [_row(version, aliases) for version in versions],
            ["version", "aliases", "job", "stage", "created"],
            output,
            wide=["parent", "uri"],
            name="version",
        )
        return
    rows = [_summary(registry, each) for each in registry.names()]
    if not rows and output in (Format.TABLE, Format.WIDE):
        note("no registered models: a stage that leaves one registers it")
        return
    print_list(rows, ["name", "task", "versions", "champion", "candidate", "created"], output)


@app.command("show")
def show(model: Named, output: Document = DocumentFormat.TABLE, mlflow: Store = None) -> None:
    """Show a version: its card, what was measured of it, and where it is from."""
    registry = _registry(mlflow)
    version = registry.find(_reference(model))
    if output is not DocumentFormat.TABLE:
        print_document(_document(version), output)
        return
    print_table(
        ["field", "value"],
        [
            ["model", version.uri],
            ["aliases", ", ".join(version.aliases) or None],
            ["run", version.run_id],
            *([key, _shortened(value)] for key, value in sorted(version.tags.items())),
            *([key, f"{value:.6g}"] for key, value in version.metrics.items()),
        ],
    )


@app.command("promote")
def promote(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="NAME, NAME@ALIAS or NAME/VERSION of a model; a name alone is its candidate.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", help="Alias that is moved.")] = "champion",
    condition: Annotated[
        str | None,
        typer.Option(
            "--if",
            metavar="GATE",
            help="Only if this holds, such as 'digits/top1 >= champion + 0.002'; see "
            "docs/registry.md.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--check", help="Change nothing, and say whether the gate opens.")
    ] = False,
    output: Document = DocumentFormat.TABLE,
    mlflow: Store = None,
) -> None:
    """Move an alias to a version, if a gate allows it; exit code 1 where it does not."""
    from dataclasses import replace

    from florence_jobs.registry.promotion import promote as promoted
    from florence_jobs.registry.references import CANDIDATE

    reference = _reference(model)
    if not (reference.alias or reference.version or reference.model_id):
        reference = replace(reference, alias=CANDIDATE)
    result = promoted(_registry(mlflow), reference, alias=to, gate=condition, dry_run=dry_run)
    before = result.before.uri if result.before is not None else None
    if output is not DocumentFormat.TABLE:
        document = {
            "model": result.candidate.uri,
            "alias": to,
            "before": before,
            "passed": result.verdict.passed,
            "moved": result.moved and not dry_run,
            "comparisons": list(result.verdict.lines),
        }
        print_document(document, output)
    else:
        for line in result.verdict.lines:
            print(line)
    if not result.verdict.passed:
        note(f"{result.candidate.uri} stays what it is; {to}: {before or 'none'}")
        raise typer.Exit(1)
    if result.moved:
        would = "would be" if dry_run else "is"
        note(f"{to} of {result.candidate.name} {would} {result.candidate.uri} (was: {before})")
    else:
        note(f"{result.candidate.uri} is the {to} already")


@app.command("alias")
def alias(
    model: Named,
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="Such as champion.")],
    delete: Annotated[
        bool, typer.Option("--delete", help="Let the alias stand for nothing.")
    ] = False,
    mlflow: Store = None,
) -> None:
    """Let an alias stand for a version, whatever its metrics."""
    registry = _registry(mlflow)
    reference = _reference(model)
    if delete:
        if name not in registry.aliases(reference.name):
            raise ConfigurationError(f"'{reference.name}' has no alias '{name}'")
        registry.delete_alias(reference.name, name)
        note(f"{reference.name}@{name} stands for nothing now")
        return
    version = registry.find(reference)
    if not version.name:
        raise ConfigurationError(f"{version.uri} is no registered version: give NAME/VERSION")
    registry.set_alias(version, name)
    note(f"{version.name}@{name} is {version.uri}")


@app.command("lineage")
def lineage(
    model: Named,
    output: Annotated[
        Format, typer.Option("-o", "--output", help="table, wide, json, yaml or name.")
    ] = Format.TABLE,
    mlflow: Store = None,
) -> None:
    """Say from which models a version came, across jobs, and what each learned from."""
    from florence_jobs.registry.lineage import lineage as lineage_of

    registry = _registry(mlflow)
    line = lineage_of(registry, registry.find(_reference(model)))
    print_list(
        [ancestor.facts for ancestor in line],
        ["model", "job", "stage", "attempt", "data", "fingerprint"],
        output,
        wide=["commit", "image", "uri"],
        name="model",
    )


@app.command("compare")
def compare(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL…", help="Versions of models, two or more.")
    ],
    output: Document = DocumentFormat.TABLE,
    mlflow: Store = None,
) -> None:
    """Put the metrics of versions side by side."""
    if len(models) < 2:
        raise ConfigurationError("compare needs two models or more: NAME@champion NAME@candidate")
    registry = _registry(mlflow)
    versions = [registry.find(_reference(model)) for model in models]
    if output is not DocumentFormat.TABLE:
        print_document([_document(version) for version in versions], output)
        return
    print_table(["metric", *(version.uri for version in versions)], compared(versions))


@app.command("export")
def export(
    model: Named,
    out: Out,
    form: Form = ExportFormat.SAFETENSORS,
    force: Force = False,
    endpoint: ModelEndpoint = None,
    mlflow: Store = None,
) -> None:
    """Write a version as a folder that other programs load; as 'florencectl export' does."""
    from florence.config.storage import S3Settings
    from florence_jobs.registry.resolving import located

    s3 = S3Settings(endpoint=endpoint)
    version = _registry(mlflow).find(_reference(model))
    write_folder(lambda: located(version.uri, s3, store=mlflow), out, form, s3, force=force)


def compared(versions: list[Version]) -> list[list[Any]]:
    """A row for every metric that any of the versions has."""
    names = sorted({name for version in versions for name in version.metrics})
    return [
        [name, *(f"{v.metrics[name]:.6g}" if name in v.metrics else None for v in versions)]
        for name in names
    ]


def _registry(store: str | None) -> ModelRegistry:
    from florence_jobs.registry.store import ModelRegistry, default_store

    return ModelRegistry(store or default_store())


def _reference(text: str) -> Any:
    from florence_jobs.registry.references import parse_reference

    return parse_reference(text)


def _summary(registry: ModelRegistry, name: str) -> dict[str, Any]:
    versions, aliases = registry.versions(name), registry.aliases(name)
    return {
        "name": name,
        "task": versions[0].tags.get("card.task"),
        "versions": len(versions),
        "champion": aliases.get("champion"),
        "candidate": aliases.get("candidate"),
        "created": _moment(versions[0].created),
    }


def _row(version: Version, aliases: dict[str, str]) -> dict[str, Any]:
    mine = sorted(alias for alias, number in aliases.items() if number == version.version)
    return {
        "version": version.version,
        "aliases": ", ".join(mine) or None,
        "job": version.tags.get("florence.name"),
        "stage": version.tags.get("florence.stage"),
        "created": _moment(version.created),
        "parent": version.tags.get("florence.parent"),
        "uri": version.tags.get("florence.uri"),
    }


def _document(version: Version) -> dict[str, Any]:
    return {
        "model": version.uri,
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "run": version.run_id,
        "created": _moment(version.created),
        "tags": dict(version.tags),
        "metrics": dict(version.metrics),
    }


def _moment(milliseconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _shortened(value: str) -> str:
    return value if len(value) <= _LONGEST_VALUE else f"{value[: _LONGEST_VALUE - 1]}…"

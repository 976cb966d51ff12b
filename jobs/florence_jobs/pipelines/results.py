"""What a finished job left, as a pipeline's step hands it on and KFP's pages show it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from florence.config.storage import S3Settings
from florence.errors import FlorenceError
from florence.models.card import ModelCard
from florence_operator.api import FlorenceJob

MOST_PICTURES = 12
"""Pictures of a report: it is one file."""
LARGEST_PICTURE = 2 << 20
"""Bytes of a picture in a report."""

MOST_TRIES = 3
"""Of a request for what a report shows: a step without keys, or a store, is done all the same."""


@dataclass(frozen=True, slots=True)
class StageResults:
    """Of one stage.

    Attributes:
        uri: its artifacts.
        pictures: PNGs by name.
        confusion: names of the classes and counts ``[true][predicted]``, where it kept them.
    """

    name: str
    uri: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    mlflow_run: str | None = None
    model: str | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    confusion: tuple[Sequence[str], Sequence[Sequence[int]]] | None = None


@dataclass(frozen=True, slots=True)
class JobResults:
    """Of a whole job; ``model`` and ``card`` are those of its last stage that left one."""

    job: str
    namespace: str
    stages: tuple[StageResults, ...]
    model: str = ""
    card: ModelCard | None = None
    note: str = ""
    """Why pictures or the card are missing."""

    @property
    def metrics(self) -> dict[str, float]:
        """Everything that was measured; of one name the last stage's."""
        return {key: value for stage in self.stages for key, value in stage.metrics.items()}

    @property
    def mlflow_run(self) -> str:
        """The run of the last stage that has one."""
        return next((s.mlflow_run for s in reversed(self.stages) if s.mlflow_run), "")

    @property
    def confusion(self) -> tuple[Sequence[str], Sequence[Sequence[int]]] | None:
        """The last confusion matrix."""
        return next((s.confusion for s in reversed(self.stages) if s.confusion), None)


def results_of(job: FlorenceJob, uri_of: Mapping[str, str], s3: S3Settings) -> JobResults:
    """What a finished job left: numbers from its status, the rest from its artifacts.

    Artifacts that cannot be read from here are left out, and ``note`` says why: a step must not
    fail because it has no key to a bucket that its job has.

    Args:
        uri_of: the artifacts of each stage by its name.
        s3: where ``s3://`` is.
    """
    assert job.status is not None
    s3 = s3.model_copy(update={"attempts": MOST_TRIES})
    stages, notes = [], []
    for status in job.status.stages:
        uri = uri_of[status.name]
        try:
            pictures, confusion = _pictures(uri, s3), _confusion(uri, s3)
        except FlorenceError as error:
            pictures, confusion = {}, None
            notes.append(f"{status.name}: {error}")
        stages.append(
            StageResults(
                name=status.name,
                uri=uri,
                metrics=dict(status.metrics),
                mlflow_run=status.mlflow_run,
                model=status.model,
                pictures=pictures,
                confusion=confusion,
            )
        )
    model = next((s.model for s in reversed(stages) if s.model), "") or ""
    card = None
    if model and not notes:
        try:
            card = _card(model, s3)
        except FlorenceError as error:
            notes.append(str(error))
    return JobResults(
        job=job.metadata.name,
        namespace=job.namespace,
        stages=tuple(stages),
        model=model,
        card=card,
        note="; ".join(dict.fromkeys(notes)),
    )


def html_report(results: JobResults) -> str:
    """One self-contained page: metrics and pictures of every stage."""
    parts = [
        "<!doctype html><meta charset='utf-8'>",
        f"<title>{html.escape(results.job)}</title>",
        "<style>body{font:15px sans-serif;margin:2em;max-width:60em}table{border-collapse:"
        "collapse}td,th{border:1px solid #ccc;padding:.3em .8em;text-align:left}"
        "img{max-width:100%}</style>",
        f"<h1>{html.escape(results.job)}</h1>",
    ]
    if results.note:
        parts.append(f"<p>{html.escape(results.note)}</p>")
    for stage in results.stages:
        parts.append(f"<h2>{html.escape(stage.name)}</h2>")
        parts.append(_html_table(_facts(stage)))
        if stage.metrics:
            parts.append(_html_table({k: _number(v) for k, v in stage.metrics.items()}))
        for name, png in stage.pictures.items():
            data = base64.b64encode(png).decode()
            parts.append(f"<h3>{html.escape(name)}</h3>")
            parts.append(f"<img alt='{html.escape(name)}' src='data:image/png;base64,{data}'>")
    return "\n".join(parts) + "\n"


def markdown_report(results: JobResults) -> str:
    """The same without pictures, for pages that show Markdown."""
    lines = [f"# {results.job}", ""]
    for stage in results.stages:
        lines += [f"## {stage.name}", "", "| | |", "|---|---|"]
        lines += [f"| {_cell(key)} | `{_cell(value)}` |" for key, value in _facts(stage).items()]
        lines += [f"| {_cell(key)} | {_number(value)} |" for key, value in stage.metrics.items()]
        lines.append("")
    return "\n".join(lines)


def _facts(stage: StageResults) -> dict[str, str]:
    facts = {"model": stage.model, "artifacts": stage.uri, "MLflow run": stage.mlflow_run}
    return {key: value for key, value in facts.items() if value}


def _number(value: float) -> str:
    """A count as one, anything else with four decimals."""
    return f"{value:,.0f}" if value.is_integer() and abs(value) > 1 else f"{value:.4f}"


def _html_table(rows: Mapping[str, str]) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>"
        for key, value in rows.items()
    )
    return f"<table>{cells}</table>"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _pictures(uri: str, s3: S3Settings) -> dict[str, bytes]:
    from florence.storage import open_storage

    storage = open_storage(uri, s3)
    found = [
        entry
        for entry in storage.list("pictures/")
        if entry.key.endswith(".png") and entry.size <= LARGEST_PICTURE
    ]
    return {
        entry.key.removeprefix("pictures/").removesuffix(".png"): storage.read(entry.key)
        for entry in found[:MOST_PICTURES]
    }


def _confusion(uri: str, s3: S3Settings) -> tuple[Sequence[str], Sequence[Sequence[int]]] | None:
    from florence.storage import open_storage

    storage = open_storage(uri, s3)
    for entry in storage.list("tables/"):
        if entry.key.endswith("/confusion.json"):
            rows: list[dict[str, Any]] = json.loads(storage.read(entry.key))
            classes = [str(row["true class"]) for row in rows]
            return classes, [[int(row[name]) for name in classes] for row in rows]
    return None


def _card(model: str, s3: S3Settings) -> ModelCard:
    """The card of a model, without torch."""
    from florence.checkpoint.final_model import committed_model
    from florence.models.card import parse_card
    from florence.storage import open_storage

    storage = open_storage(model, s3)
    final = committed_model(storage)
    content = final.read("config.json") if final is not None else storage.read("config.json")
    return parse_card(content, f"{model}/config.json")[0]

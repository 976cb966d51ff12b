"""What the shell offers after a command: names of jobs and stages, models, settings.

Quickly or not at all: nothing here imports torch, and what cannot be known offers nothing.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, get_args

import typer

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from florence.config import Settings

LONGEST_WAIT = 2.0
FILES_TOO, NO_FILES = 0, 4  # what kubectl's completion does when nothing is offered


def job_names(context: typer.Context, incomplete: str) -> list[str]:
    """The jobs whose name begins as typed: of the cluster, or of this machine."""
    names: Sequence[str] = ()
    with suppress(Exception):  # a completion that fails offers nothing
        names = _names(context)
    return [name for name in names if name.startswith(incomplete)]


def _names(context: typer.Context) -> list[str]:
    from florencectl.cluster.connection import Place, is_configured, on_cluster

    given = context.params
    place = Place(given.get("kubeconfig"), given.get("context"), given.get("namespace"))
    if given.get("local") or not is_configured(place):
        from florencectl.local_jobs import names_of_jobs

        return names_of_jobs(place.namespace or "default")
    from florencectl.cluster.jobs import list_jobs

    jobs = on_cluster(
        place, lambda client, namespace: list_jobs(client, namespace), within=LONGEST_WAIT
    )
    return [job["metadata"]["name"] for job in jobs]


def presets(incomplete: str) -> list[str]:
    """The presets of models whose name begins as typed."""
    from florence.config.model import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


def stages_of_job(context: typer.Context, incomplete: str) -> list[str]:
    """The stages of the job of this machine that is named before."""
    names: list[str] = []
    with suppress(Exception):
        from florencectl.local_jobs import stages_of

        names = stages_of(context.params["name"], context.params.get("namespace") or "default")
    return [name for name in names if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """The models that jobs of this machine made, and folders as typed."""
    found: list[str] = []
    with suppress(Exception):
        from florencectl.local_jobs import models_of_jobs

        found = models_of_jobs()
    return [uri for uri in found if uri.startswith(incomplete)]


def assignments_to_job(context: typer.Context, incomplete: str) -> list[str]:
    """How a ``--set`` of ``submit -f FILE`` may go on: stages of the file, then their settings."""
    from florence.config import ModelConfig

    groups: dict[str, type[Settings] | None] = {"model": ModelConfig, "name": None}
    with suppress(Exception):
        from florence_operator.api import load_job

        job = load_job(context.params["file"])
        groups |= {stage.name: stage.kind.settings for stage in job.spec.stages}
    first, dot, rest = incomplete.partition(".")
    if not dot:
        ends = {name: "=" if model is None else "." for name, model in groups.items()}
        return [f"{name}{end}" for name, end in ends.items() if name.startswith(first)]
    model = groups.get(first)
    return [f"{first}.{path}" for path in setting_paths(model, rest)] if model else []


def assignments_to_stage(context: typer.Context, incomplete: str) -> list[str]:
    """How a ``--set`` of ``submit KIND`` may go on: settings of the kind, or of the model."""
    from florence.config import ModelConfig
    from florence.kinds import KINDS

    first, dot, rest = incomplete.partition(".")
    if dot and first == "model":
        return [f"model.{path}" for path in setting_paths(ModelConfig, rest)]
    offered = setting_paths(KINDS[context.info_name or ""].settings, incomplete)
    return [*offered, "model."] if not dot and "model".startswith(first) else offered


def setting_paths(model: type[Settings], typed: str) -> list[str]:
    """How the path of a setting may go on, as one writes it.

    Groups end with a dot and settings with ``=``; after that come the values of switches and
    choices.
    """
    path, equals, value = typed.partition("=")
    *groups, last = path.split(".")
    for group in groups:
        below = next(
            (_group_of(field) for field in model.model_fields.values() if field.alias == group),
            None,
        )
        if below is None:
            return []
        model = below
    start = "".join(f"{group}." for group in groups)
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    if equals:
        return [
            f"{path}={choice}"
            for choice in (_choices(fields[last]) if last in fields else [])
            if choice.startswith(value)
        ]
    return [
        f"{start}{name}{'.' if _group_of(field) else '='}"
        for name, field in fields.items()
        if name.startswith(last)
    ]


def _types(field: FieldInfo) -> list[type]:
    every = get_args(field.annotation) or (field.annotation,)
    return [kind for kind in every if isinstance(kind, type)]


def _group_of(field: FieldInfo) -> type[Settings] | None:
    from florence.config import Settings

    return next((kind for kind in _types(field) if issubclass(kind, Settings)), None)


def _choices(field: FieldInfo) -> list[str]:
    for kind in _types(field):
        if issubclass(kind, StrEnum):
            return [member.value for member in kind]
        if kind is bool:
            return ["true", "false"]
    return []


def kubectl_complete() -> None:
    """The console script ``kubectl_complete-florence``: how ``kubectl florence …`` may go on.

    kubectl passes the words after ``florence``, the last of which is being typed, and reads one
    suggestion a line and then a directive.
    """
    from florencectl.main import main

    words = ["florencectl", *(sys.argv[1:] or [""])]
    os.environ |= {
        "_FLORENCECTL_COMPLETE": "complete_bash",
        "COMP_WORDS": shlex.join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    offered = io.StringIO()
    with redirect_stdout(offered), suppress(SystemExit):
        main()
    lines = offered.getvalue().split()
    print(*lines, f":{NO_FILES if lines else FILES_TOO}", sep="\n")

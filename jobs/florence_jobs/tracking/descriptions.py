"""The texts on the pages of runs, in Markdown."""

from __future__ import annotations

DESCRIPTION = "mlflow.note.content"
"""MLflow's own tag: the description on the page of a run or a model."""


def described(description: str, problem: str | None = None) -> str:
    """The text of a run: what went wrong in its last attempt, then what it is of."""
    return "\n\n".join(part for part in (problem, description) if part)


def is_ours(text: str | None, description: str) -> bool:
    """Whether a run's text is one of :func:`described`, which may be replaced, or a user's."""
    return text is None or text.endswith(description)


def of_stage(job: str, stage: str, kind: str, output: str, started_from: str | None) -> str:
    """What the run of a stage is of.

    Args:
        job: with its namespace.
        output: the stage's artifacts.
        started_from: URI of the model that it starts from.
    """
    model = f" It starts from `{started_from}`." if started_from else ""
    return f"Stage `{stage}` ({kind}) of job `{job}`; its artifacts are in {_link(output)}.{model}"


def of_job(job: str, output: str) -> str:
    """What the run of a job is of: ``output`` are its artifacts."""
    return f"Job `{job}`; its artifacts are in {_link(output)}."


def _link(uri: str) -> str:
    """A link where a browser can follow it, else the URI to copy."""
    return f"[{uri}]({uri})" if uri.startswith(("http://", "https://")) else f"`{uri}`"

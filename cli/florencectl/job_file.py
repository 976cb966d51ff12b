"""FlorenceJobs from files and flags, with every wrong field told by its path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from florence.errors import ConfigurationError
from florence_operator.api.problems import problems
from florencectl.flags import assign, merged

if TYPE_CHECKING:
    from florence_operator.api import FlorenceJob


class InvalidJobError(ConfigurationError):
    """A job with wrong fields; the message has a line for each."""

    def __init__(self, findings: list[str]) -> None:
        self.findings = findings
        super().__init__("\n".join(findings))


def read_job(path: Path) -> FlorenceJob:
    """The job in a file.

    Raises:
        InvalidJobError: fields are wrong; every line names the file and the field.
        ConfigurationError: the file cannot be read or holds no job.
    """
    from florence_operator.api import FlorenceJob, load_job

    try:
        return load_job(path)
    except ValidationError as error:
        raise InvalidJobError(problems(error, model=FlorenceJob, source=str(path))) from None


def changed(job: FlorenceJob, assignments: Sequence[str]) -> FlorenceJob:
    """The job with settings of stages, of the model or of the name changed.

    Args:
        assignments: ``stage.field=value`` for a setting of that stage's kind, such as
            ``mixed.optimizer.lr=1e-4``; ``model.field=value``; ``name=value``. Of two lengths of a
            stage, ``steps`` and ``epochs``, the one that is set replaces the other.

    Raises:
        InvalidJobError: a value is wrong.
        ConfigurationError: an assignment cannot be read, or names no stage; names those there are.
    """
    document = job.manifest()
    stages = {stage["name"]: stage for stage in document["spec"]["stages"]}
    for name, values in assign(assignments).items():
        if name == "name":
            document["metadata"]["name"] = values
        elif name == "model":
            document["spec"]["model"] = merged(document["spec"].get("model", {}), values)
        elif name in stages and isinstance(values, dict):
            kind = job.spec.stage(name).kind.name
            settings = merged(stages[name][kind], values)
            for one, other in (("steps", "epochs"), ("epochs", "steps")):
                if one in values and other not in values:
                    settings.pop(other, None)
            stages[name][kind] = settings
        else:
            raise ConfigurationError(
                f"--set {name}…: write it as STAGE.FIELD=VALUE with one of the stages "
                f"{', '.join(stages)}, as model.FIELD=VALUE, or as name=VALUE"
            )
    return job_of(document)


def job_of(document: dict[str, Any]) -> FlorenceJob:
    """The job of a document made from flags. Raises :class:`InvalidJobError`."""
    from florence_operator.api import FlorenceJob

    try:
        return FlorenceJob.model_validate(document)
    except ValidationError as error:
        raise InvalidJobError(problems(error, model=FlorenceJob)) from None

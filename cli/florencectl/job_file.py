"""FlorenceJobs from files and flags, with every wrong field told by its path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from florence.errors import ConfigurationError
from florence_operator.api.problems import problems

if TYPE_CHECKING:
    from florence_operator.api import FlorenceJob


class InvalidJobError(ConfigurationError):
    """A job with wrong fields; the message has a line for each."""

    def __init__(self, findings: list[str]) -> None:
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


def job_of(document: dict[str, Any]) -> FlorenceJob:
    """The job of a document made from flags. Raises :class:`InvalidJobError`."""
    from florence_operator.api import FlorenceJob

    try:
        return FlorenceJob.model_validate(document)
    except ValidationError as error:
        raise InvalidJobError(problems(error, model=FlorenceJob)) from None

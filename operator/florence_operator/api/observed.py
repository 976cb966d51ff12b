"""What one version of the operator writes into an object's status and another one reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import ConfigDict, model_validator

from florence.config.base import Settings
from florence_operator.api import old_names


class Observed(Settings):
    """A part of the status: written by one version of the operator and read by another.

    Fields that only the other one knows are kept, and written back as they were.
    """

    model_config = ConfigDict(extra="allow")
    renamed: ClassVar[Mapping[str, str]] = {}
    """Names on the wire of today, and what they were in the release before."""

    @model_validator(mode="before")
    @classmethod
    def _under_the_names_of_today(cls, document: Any) -> Any:
        return old_names.read(document, cls.renamed)

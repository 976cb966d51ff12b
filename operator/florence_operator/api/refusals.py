"""What a validator raises to blame a field below its own."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError


def refusal(found: str, *path: str | int) -> ValidationError:
    """An error about the field at ``path``; pydantic puts the validator's own path before."""
    problem = PydanticCustomError("refused", "{found}", {"found": found, "error": found})
    return ValidationError.from_exception_data(
        "FlorenceJob", [InitErrorDetails(type=problem, loc=path, input=None)]
    )
